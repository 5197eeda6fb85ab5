"""Whose study it is: every way in which an archive's answer may look other, and every way in which it is another patient."""

from pathlib import Path

import pytest
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
    # different scripts cannot be compared
    ("王^小东", "Wang^XiaoDong"),
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
]


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


def test_the_identity_is_read_from_the_object_itself(ct: list[Path], tmp_path: Path) -> None:
    ds = dcmread(ct[0])
    ds.SpecificCharacterSet = "GB18030"
    ds.PatientName, ds.PatientID, ds.AccessionNumber = "王^小东", " P1 ", None
    ds.save_as(tmp_path / "x.dcm")
    mine = whose(tmp_path / "x.dcm")
    assert (mine.patient_name, mine.patient_id, mine.accession_number) == ("王^小东", "P1", "")
    assert "王" not in repr(mine)
    assert "P1" not in repr(mine)
