"""Whose study it is: every way in which an archive's answer may look other, and every way in which it is another patient."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import dcmread

from dicom_io.scu_query import FoundStudy
from node.whose import Whose, differences, same_name, whose

pytestmark = pytest.mark.unit

# (patient ID, issuer, accession number) of ours and of theirs, what differs
KEYS: list[tuple[tuple[str, str, str], tuple[str, str, str], tuple[str, ...]]] = [
    (("P1", "", "A1"), ("P1", "", "A1"), ()),
    (("P1", "", "A1"), ("P1 ", "", " A1"), ()),
    (("p1", "", "a1"), ("P1", "", "A1"), ()),
    (("Ｐ1", "", "A1"), ("P1", "", "A1"), ()),  # full-width letter
    (("P1", "", "A1"), ("P2", "", "A1"), ("PatientID",)),
    (("001", "", ""), ("1", "", ""), ("PatientID",)),
    (("P1", "", "A1"), ("", "", "A1"), ("PatientID",)),
    (("", "", "A1"), ("P1", "", "A1"), ("PatientID",)),
    (("", "", "A1"), ("", "", "A1"), ()),
    (("P1", "H1", "A1"), ("P1", "", "A1"), ()),
    (("P1", "", "A1"), ("P1", "H1", "A1"), ()),
    (("P1", "H1", "A1"), ("P1", "h1 ", "A1"), ()),
    (("P1", "H1", "A1"), ("P1", "H2", "A1"), ("IssuerOfPatientID",)),
    (("P1", "", "A1"), ("P1", "", ""), ()),
    (("P1", "", ""), ("P1", "", "A1"), ()),
    (("P1", "", "A1"), ("P1", "", "A2"), ("AccessionNumber",)),
    (("P1", "H1", "A1"), ("P2", "H2", "A2"), ("PatientID", "IssuerOfPatientID", "AccessionNumber")),
]

SAME = [
    ("Wang^XiaoDong", "Wang^XiaoDong"),
    ("Wang^XiaoDong", "WANG^XIAODONG"),
    ("Wang^XiaoDong", "Wang^XiaoDong^^^"),
    ("Wang^XiaoDong", "Wang^XiaoDong "),
    ("Wang^Xiao Dong", "Wang^XiaoDong"),
    ("Wang^XiaoDong", "Wang, XiaoDong"),
    ("Wang^XiaoDong", "Wang XiaoDong"),
    ("Wang^XiaoDong", ""),
    ("", "Wang^XiaoDong"),
    ("", ""),
    # a component or a group is left out
    ("Wang^XiaoDong", "Wang"),
    ("王^XiaoDong", "^XiaoDong"),
    ("Wang^XiaoDong=王^小东", "Wang^XiaoDong"),
    ("Wang^XiaoDong=王^小东", "Wang^XiaoDong="),
    ("Wang^XiaoDong=王^小东", "=王^小东"),
    ("Wang^XiaoDong=王^小东", "王^小东"),
    ("王^小东", "Wang^XiaoDong=王^小东"),
    ("Yamada^Tarou=山田^太郎=やまだ^たろう", "Yamada^Tarou=山田^太郎"),
    ("Hong^Gildong=洪^吉洞=홍^길동", "Hong^Gildong=洪^吉洞"),
    # one script in two groups: one of them has to agree
    ("ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎=やまだ^たろう", "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎=やまだ^たろう"),  # PS3.5 H.3.2
    ("ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎=やまだ^たろう", "ヤマダ^タロウ"),
    ("ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎=やまだ^たろう", "Yamada^Tarou=山田^太郎"),
    ("홍^길동=洪^吉洞", "홍^길동=洪^吉洞"),
    ("Иванов^Иван=Ivanov^Ivan", "Иванов^Иван=Ivanov^Ivan"),
    ("WANG^XD=Wang^XiaoDong", "WANG^XD=Wang^XiaoDong"),
    ("WANG^XD=Wang^XiaoDong", "Wang^XiaoDong"),
    # different scripts cannot be compared
    ("王^小东", "Wang^XiaoDong"),
    ("やまだ^たろう", "山田^太郎"),
    ("홍^길동", "洪^吉洞"),
    ("홍^길동", "Hong^Gildong"),
    ("Иванов^Иван", "Ivanov^Ivan"),
    ("Παπαδόπουλος^Γιώργος", "Papadopoulos^Georgios"),
    ("محمد^علي", "Mohammed^Ali"),
    ("כהן^דוד", "Cohen^David"),
    ("สมชาย^ใจดี", "Somchai^Jaidee"),
    ("王^XiaoDong", "Wang^XiaoDong"),
    ("王^XiaoDong", "王^小东"),
    ("高橋^みなみ", "たかはし^みなみ"),
    ("高橋みなみ", "たかはし^みなみ"),
    ("高橋^みなみ", "高橋^美波"),
    ("Wang^XiaoDong", "??^????"),  # which may be the Chinese characters
    # one script written in two ways
    ("やまだ^たろう", "ﾔﾏﾀﾞ^ﾀﾛｳ"),
    ("しょうこ", "ｼﾖｳｺ"),
    ("ジョン・スミス", "ジョン^スミス"),
    ("佐々木^花子", "佐々木花子"),
    ("髙橋^𠮷雄", "高橋^吉雄"),
    ("葛\U000e0100城", "葛城"),
    ("ΠΑΠΑΔΟΠΟΥΛΟΣ", "Παπαδόπουλος"),
    ("Семёнов", "СЕМЕНОВ"),
    # characters are replaced
    ("王^小东", "??^????"),
    ("王^小东", "?^??"),
    ("王小东", "??????"),
    ("Wang^XiaoDong=王^小东", "Wang^XiaoDong=?^??"),
    ("Wang^XiaoDong=王^小东", "Wang^XiaoDong=\ufffd\ufffd^\ufffd"),
    ("Schäfer^Jürgen", "Sch?fer^J?rgen"),
    ("Sch?fer^Jürgen", "Schäfer^J?rgen"),
    ("Schäfer^Jürgen", "Sch\ufffdfer^J\ufffdrgen"),
    ("\ufffd\ufffd\ufffd^Dong", "王^Dong"),  # ours in no declared character set
    ("王^小东", "王^?东"),
    ("王^小东", "王^小?"),
    ("王小东", "王????"),
    ("王小东", "王^?"),
    ("王?东", "王小?"),
    ("王^小东", "王^小\ue000"),  # a private character may be any
    ("山田^みな子", "山田^???子"),
    # left out
    ("Schäfer^Jürgen", "Schfer^Jrgen"),
    # spelled otherwise
    ("Schäfer^Jürgen", "Schafer^Jurgen"),
    ("Schäfer^Jürgen", "SCHAEFER^JUERGEN"),
    ("Großmann", "GROSSMANN"),
    ("Sørensen^Åse", "Soerensen^Aase"),
    ("Sørensen^Åse", "Sorensen^Ase"),
    ("Dvořák", "DVORAK"),
    ("Łukasz", "Lukasz"),
    ("O'Neil^Mary-Ann", "ONeil^Mary Ann"),
    ("ＷＡＮＧ^Ｘ", "Wang^X"),
    # the same bytes under another name
    ("王小东", "王小东".encode("gb18030").decode("latin-1")),
    ("王^小东", "王^小东".encode().decode("latin-1")),
    ("Schäfer", "Schäfer".encode().decode("latin-1")),
    ("김희중".encode("euc_kr").decode("latin-1"), "김희중"),
    ("Cao=曹^小东", "Cao=曹^小东".encode("gb18030").decode("latin-1")),
    ("曹^小东", "Cao=曹^小东".encode("gb18030").decode("latin-1")),
    ("Иванов", "Иванов".encode("iso8859_5").decode("latin-1")),
    ("Wang^XiaoDong", "王^小东".encode("gb18030").decode("latin-1")),
    ("001", "001"),
]
OTHER = [
    ("Wang^XiaoDong", "Li^Ming"),
    ("Wang^XiaoDong", "Wang^XiaoMing"),
    ("Wang^XiaoDong", "XiaoDong^Wang"),
    ("王^小东", "李^明"),
    ("王^小东", "王^小明"),
    ("王小东", "王小"),
    ("Wang^XiaoDong=王^小东", "Wang^XiaoDong=王^晓东"),  # read alike, written otherwise
    ("Wang^XiaoDong=王^小东", "Li^Ming=王^小东"),
    ("Wang^XiaoDong=王^小东", "Li^Ming=??^??"),
    ("Wang^XiaoDong=王^小东", "Li^Ming"),
    ("Wang^XiaoDong=王^小东", "李^明"),
    ("Schäfer", "Sch?ller"),
    ("Schäfer", "Schaller"),
    ("Müller^Hans", "M?ller^Karl"),
    ("Hans", "H?ns"),  # an ASCII letter is never lost
    ("Doe^John", "?oe^John"),
    ("Smith^A", "Smith^B"),
    ("Иванов^Иван", "Петров^Иван"),
    ("王小东", "王小明".encode("gb18030").decode("latin-1")),
    ("やまだ", "やまた"),
    ("张^伟", "張^偉"),  # that two characters are one is not for the node to say
    ("001", "002"),
    ("001", "Wang^XiaoDong"),
    ("Test^1", "Test^2"),
    # one script is enough to tell them apart
    ("ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎=やまだ^たろう", "山田^次郎"),
    ("ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎", "サトウ^タロウ=山田^太郎"),
    ("홍^길동=洪^吉洞", "김^철수=洪^吉洞"),
    ("Hong^Gildong=洪^吉洞=홍^길동", "김^철수"),
    ("Иванов^Иван=Ivanov^Ivan", "Иванов^Иван=Petrov^Ivan"),
    ("WANG^XD=Wang^XiaoDong", "Li^Ming"),
    ("王^XiaoDong", "Wang^XiaoMing"),
    ("王^Ming", "Wang^XiaoMing"),
    ("王小Dong", "李四"),
    ("高橋^みなみ", "たかはし^まなみ"),
    ("曹^小东", "曹^小明".encode("gb18030").decode("latin-1")),
    # what is left after a loss
    ("李^?", "王^小东"),
    ("王?", "李四"),
    ("金^?", "朴^智星"),
    ("김^?", "박^지성"),
    ("王^小?", "王^晓东"),
    ("王^?", "李小东"),
    ("?小?", "王晓东"),
    ("Иванов^И?", "Иванов^Пётр"),
    ("王小小", "王小"),
    ("王^小小?", "王^小东"),
    ("王^?Ming", "王^Ming"),  # it stands for one or more
]


SCRIPTS = {
    "han": "王李张小东明伟丽山田",
    "kana": "あきすてのみらヤマダタロ",
    "hangul": "김이박홍길동철수지",
    "cyrillic": "ИванПетрЖдщ",
    "greek": "ΠαδλογκΓρμς",
    "arabic": "محدعليسن",
    "hebrew": "כהןדושלר",
    "thai": "สมชยจดกร",
    "latin": "WangLiMEtöß",
}
PARTS = st.text(st.sampled_from("".join(SCRIPTS.values()) + "?\ufffd 1"), max_size=4)
NAMES = st.lists(st.lists(PARTS, min_size=1, max_size=3).map("^".join), min_size=1, max_size=3).map("=".join)


@st.composite
def masked(draw: st.DrawFn) -> tuple[str, str]:
    """Return a name that lost some characters, and one in which a character that was kept is another."""
    script = draw(st.sampled_from([s for s in SCRIPTS if s != "latin"]))
    letters = draw(st.lists(st.sampled_from(SCRIPTS[script]), min_size=3, max_size=6, unique_by=str.casefold))
    other, *letters = letters
    kept = draw(st.integers(0, len(letters) - 1))
    lost = draw(st.sets(st.integers(0, len(letters) - 1))) - {kept}
    space = draw(st.integers(1, len(letters)))
    left = ["?" * draw(st.integers(1, 3)) if i in lost else c for i, c in enumerate(letters)]
    changed = [other if i == kept else c for i, c in enumerate(letters)]
    return tuple("".join(t[:space]) + "^" + "".join(t[space:]) for t in (left, changed))


def found(name: str, patient_id: str = "P1", issuer: str = "", accession: str = "A1") -> FoundStudy:
    return FoundStudy("1.2.3", patient_id, issuer, accession, name)


@pytest.mark.parametrize(("ours", "theirs", "differ"), KEYS)
def test_key_row(ours: tuple[str, str, str], theirs: tuple[str, str, str], differ: tuple[str, ...]) -> None:
    assert differences(Whose(*ours, "N"), FoundStudy("1.2.3", *theirs, "N")) == differ


@pytest.mark.parametrize(("ours", "theirs"), SAME)
def test_names_that_an_archive_may_answer_for_the_same_patient(ours: str, theirs: str) -> None:
    assert same_name(ours, theirs)
    assert same_name(theirs, ours)


@pytest.mark.parametrize(("ours", "theirs"), OTHER)
def test_names_of_other_patients(ours: str, theirs: str) -> None:
    assert not same_name(ours, theirs)
    assert not same_name(theirs, ours)
    assert differences(Whose("P1", "", "A1", ours), found(theirs)) == ("PatientName",)


@settings(deadline=None)
@given(NAMES | st.text(max_size=12))
def test_a_name_is_the_same_as_itself(name: str) -> None:
    assert same_name(name, name)


@settings(deadline=None)
@given(NAMES, NAMES)
def test_which_name_is_ours_does_not_matter(a: str, b: str) -> None:
    assert same_name(a, b) == same_name(b, a)


@settings(deadline=None)
@given(masked())
def test_a_character_that_was_kept_tells_names_apart(names: tuple[str, str]) -> None:
    left, other = names
    assert not same_name(left, other)
    assert not same_name("Name^Alike=" + left, "Name^Alike=" + other)


def test_the_identity_is_read_from_the_object_itself(ct: list[Path], tmp_path: Path) -> None:
    ds = dcmread(ct[0])
    ds.SpecificCharacterSet = "GB18030"
    ds.PatientName, ds.PatientID, ds.AccessionNumber = "王^小东", " P1 ", None
    ds.save_as(tmp_path / "x.dcm")
    mine = whose(tmp_path / "x.dcm")
    assert (mine.patient_name, mine.patient_id, mine.accession_number) == ("王^小东", "P1", "")
    assert "王" not in repr(mine)
    assert "P1" not in repr(mine)
