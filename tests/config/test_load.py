"""The configuration is read strictly, and an error names file, key, value and what is allowed."""

import dataclasses
import re
import tomllib
from pathlib import Path

import pytest

from config import ConfigError, Settings, load

pytestmark = pytest.mark.unit

EXAMPLE = Path(__file__).resolve().parents[2] / "config" / "pacs-ai-node.toml"


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "node.toml"
    path.write_text(text, encoding="utf-8")
    return path


RULE = '[[rule]]\nname = "r"\nwhen = {{ {when} }}\nrun = ["{run}"]\nsend_to = ["{to}"]\n[[destination]]\nname = "pacs"\nhost = "h"\nport = 104\nae_title = "P"\n'
PLACE = '[[destination]]\nname = "pacs"\nhost = "h"\nport = 1\nae_title = "A"\n{more}\n'
OBJECT = 'profile = "custom"\n[[destination.objects]]\n{}'
PEER = '[[dicom.peer]]\nae_title = "CT1"\nhost = "10.1.2.3"\n{more}\n'


def test_the_commented_default_file_holds_the_defaults() -> None:
    assert load(EXAMPLE, {}) == load(Path("/dev/null"), {}) == Settings()


def test_the_commented_default_file_names_every_key() -> None:
    text = EXAMPLE.read_text(encoding="utf-8")

    def names(kind: type) -> set[str]:
        return {f.name for f in dataclasses.fields(kind)}

    from config import settings

    for kind in (
        settings.Node,
        settings.Peer,
        settings.Dicom,
        settings.ServerTls,
        settings.Web,
        settings.WebClient,
        settings.StudyTimes,
        settings.Worker,
        settings.Rule,
        settings.Destination,
    ):
        for name in names(kind) - {"peer", "client"} - ({"tls"} if kind in (settings.Dicom, settings.Web) else set()):
            assert re.search(rf"^(# )?{name} = ", text, re.MULTILINE), f"{kind.__name__}.{name}"


def test_commented_tables_of_the_default_file_load_when_uncommented(tmp_path: Path) -> None:
    text = re.sub(r"^# (\[|[a-z_]+ = )", r"\1", EXAMPLE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    settings = load(written(tmp_path, text), {})
    assert settings.rule[0].send_to == (settings.destination[0].name,) == ("pacs",)
    assert settings.dicom.peer[0].sends == "study"
    own = settings.dicom.tls
    assert own is not None
    assert own.verify == "required"
    called = settings.destination[0].tls
    assert called is not None
    assert (called.ca, called.certificate, called.key) == (own.ca, own.certificate, own.key), "left to [dicom.tls]"
    pinned = settings.ris[0].tls
    assert pinned is not None
    assert (pinned.ca, pinned.certificate) == (None, own.certificate), "a pin needs no authority"


@pytest.mark.parametrize(
    ("text", "key", "says"),
    [
        ("[dicom]\nprot = 1\n", "dicom.prot", "did you mean 'port'"),
        ("[dicm]\n", "dicm", "did you mean 'dicom'"),
        ('[dicom]\nport = "104"\n', "dicom.port", "integer"),
        ("[dicom]\nport = 70000\n", "dicom.port", "65535"),
        ("[dicom]\nae_titles = []\n", "dicom.ae_titles", "at least 1"),
        ('[dicom]\nae_titles = ["ABCDEFGHIJKLMNOPQ"]\n', "dicom.ae_titles.0", "16"),
        ('[node]\nname = "../b"\n', "node.name", "hyphens"),
        ("[study]\nquiet_s = -1\n", "study.quiet_s", "greater"),
        ('[node]\nlanguages = ["xx"]\n', "node.languages.0", "zh-CN"),
        ('[writer]\nlanguages = ["en"]\n', "writer.languages", "node.languages"),
        ('[[destination]]\nname = "a"\n', "destination.0.", "equired"),
        ('[[destination]]\nname = "a"\nkind = "stow"\n', "destination.0.url", "required"),
        ('[[destination]]\nname = "a"\nkind = "stow"\nurl = "ftp://x"\n', "destination.0.url", "https://"),
        ('[[destination]]\nname = "a"\nkind = "stow"\nurl = "https://u:p@x/"\n', "destination.0.url", "without user"),
        (
            '[[destination]]\nname = "a"\nkind = "stow"\nurl = "https://x/"\nport = 4\n',
            "destination.0.port",
            'kind = "dicom"',
        ),
        (
            '[[destination]]\nname = "a"\nkind = "stow"\nurl = "https://x/"\nproof = "commitment"\n',
            "destination.0.proof",
            "dicom",
        ),
        (
            '[[destination]]\nname = "a"\nkind = "stow"\nurl = "https://x/"\nheaders = { A = "b\\n" }\n',
            "destination.0.headers",
            "header",
        ),
        ('[[destination]]\nname = "a"\nkind = "webhook"\n', "destination.0.url", 'kind = "webhook"'),
        (
            '[[destination]]\nname = "a"\nkind = "webhook"\nurl = "https://x/y"\nhost = "h"\n',
            "destination.0.host",
            'kind = "dicom"',
        ),
        (
            '[[destination]]\nname = "a"\nkind = "webhook"\nurl = "https://x/y"\nreject_superseded = true\n',
            "destination.0.reject_superseded",
            "gets none",
        ),
        ('[web]\nhost = "0.0.0.0"\n', "web.host", "proxy that ends TLS"),
        ('[web]\nbase = "web/"\n', "web.base", "/dicom-web"),
        ('[web.tls]\ncertificate = "c"\nkey = "k"\n', "web.tls.ca", "authorities"),
        ('[[web.client]]\nname = "A"\n', "web.client.0", "proves nothing"),
        ('[[web.client]]\nname = "A"\ntoken_env = "T"\nhost = ["10.0.0.1/8"]\n', "web.client.0.host", "network"),
        ('[[web.client]]\nname = "A"\ncertificate = "ab"\n', "web.client.0.certificate", "64 small"),
        (RULE.format(when='Modality = "CT"', run="chest_ct", to="nowhere"), "rule.0.send_to", "pacs"),
        (RULE.format(when='Modality = "CT"', run="knee", to="pacs"), "rule.0.run", "chest_ct"),
        (RULE.format(when='Modalty = "CT"', run="chest_ct", to="pacs"), "rule.0.when.Modalty", "keyword"),
        ('[writer]\nprofile = "custom"\n', "writer.profile", "legacy"),
        (PLACE.format(more='profile = "nobody"'), "destination.0.profile", "'pdf-only' or 'custom'"),
        (PLACE.format(more='profile = "custom"'), "destination.0.objects", "needed there"),
        (PLACE.format(more='[[destination.objects]]\nobject = "sc"'), "destination.0.objects", "custom"),
        (PLACE.format(more=OBJECT.format('object = "movie"')), "destination.0.objects.0.object", "'overlay'"),
        (
            PLACE.format(more=OBJECT.format('object = "seg"\nencodin = "x"')),
            "destination.0.objects.0.encodin",
            "'encoding'",
        ),
        (
            PLACE.format(more=OBJECT.format('object = "seg"\ncompression = "rle"')),
            "destination.0.objects.0",
            "deflated",
        ),
        (
            PLACE.format(more='profile = "legacy"\nseg = { encoding = "labelmap" }'),
            "destination.0.seg",
            "no segmentation",
        ),
        (PLACE.format(more='seg = { encoding = "gray" }'), "destination.0.seg.encoding", "fractional"),
        ('[dicom.tls]\ncertificate = "c"\nkey = "k"\n', "dicom.tls.ca", "authorities"),
        ('[dicom.tls]\ncertificate = "c"\nkey = "k"\nca = "a"\nminimum = "1.1"\n', "dicom.tls.minimum", "1.2"),
        (PEER.format(more='rights = ["delete"]'), "dicom.peer.0.rights", "store"),
        (PEER.format(more='certificate = "sha256:' + "0" * 64 + '"'), "dicom.peer.0.certificate", "[dicom.tls]"),
        (PEER.format(more='certificate = "sha256:00"'), "dicom.peer.0.certificate", "64"),
        (PEER.format(more='certificate = "name:"'), "dicom.peer.0.certificate", "64"),
        (PEER.format(more="tls = { }"), "dicom.peer.0.tls", "pin"),
        (PEER.replace("10.1.2.3", "10.1.2.3/24").format(more=""), "dicom.peer.0.host", "host bits"),
        (PEER.replace("10.1.2.3", "10.1.2.0/24").format(more="query_port = 104"), "dicom.peer.0.host", "one machine"),
        (
            RULE.format(when="SliceThickness = { lt = 3 }", run="chest_ct", to="pacs"),
            "rule.0.when.SliceThickness",
            "ge, le",
        ),
    ],
)
def test_an_error_names_file_key_and_what_is_allowed(tmp_path: Path, text: str, key: str, says: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(ConfigError) as error:
        load(path, {})
    assert error.value.file == str(path)
    assert error.value.key.startswith(key), error.value.key
    assert says in str(error.value)


def test_rules_take_values_lists_and_tables(tmp_path: Path) -> None:
    when = 'Modality = ["CT", "CR"], BodyPartExamined = "*CHEST*", SliceThickness = { ge = 0.5, le = 3 }, CallingAETitle = "CT1"'
    rule = load(written(tmp_path, RULE.format(when=when, run="chest_ct", to="pacs")), {}).rule[0]
    assert rule.when["Modality"] == ("CT", "CR")
    assert rule.when["SliceThickness"] == {"ge": 0.5, "le": 3}


def test_the_environment_overrides_the_file_with_toml_values(tmp_path: Path) -> None:
    path = written(tmp_path, "[dicom]\nport = 104\n")
    environ = {
        "PACS_AI_NODE__DICOM__PORT": "11113",
        "PACS_AI_NODE__NODE__DATA_DIR": "/some/where",
        "PACS_AI_NODE__DICOM__AE_TITLES": '["A", "B"]',
    }
    settings = load(path, environ)
    assert (settings.dicom.port, settings.node.data_dir, settings.dicom.ae_titles) == (
        11113,
        Path("/some/where"),
        ("A", "B"),
    )
    with pytest.raises(ConfigError) as error:
        load(path, {"PACS_AI_NODE__DICOM__PORT": '"x"'})
    assert (error.value.file, error.value.key) == ("environment", "dicom.port")


def test_files_are_looked_for_in_the_order_of_the_contract(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pacs-ai-node.toml").write_text("[dicom]\nport = 1\n")
    named = written(tmp_path, "[dicom]\nport = 2\n")
    assert load(None, {}).dicom.port == 1
    assert load(None, {"PACS_AI_NODE_CONFIG": str(named)}).dicom.port == 2
    assert load(named, {"PACS_AI_NODE_CONFIG": "/does/not/exist"}).dicom.port == 2
    with pytest.raises(ConfigError, match="cannot be read"):
        load(tmp_path / "absent.toml", {})


def test_what_is_not_toml_is_refused_with_its_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"node\.toml.*not TOML"):
        load(written(tmp_path, "[dicom\n"), {})


def test_what_is_too_long_to_be_a_configuration_is_not_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="longer than 1048576 bytes"):
        load(Path("/dev/zero"), {})
    assert load(written(tmp_path, "#" * (1 << 20)), {}) == Settings()


def test_a_name_used_twice_is_refused(tmp_path: Path) -> None:
    twice = '[[destination]]\nname = "a"\nhost = "h"\nport = 1\nae_title = "A"\n' * 2
    with pytest.raises(ConfigError, match="twice"):
        load(written(tmp_path, twice), {})


def test_the_example_is_toml() -> None:
    assert tomllib.loads(EXAMPLE.read_text(encoding="utf-8"))["dicom"]["host"] == "127.0.0.1"


@pytest.mark.parametrize(
    "url",
    [
        "postgresql+psycopg://node:geheim@db/node",
        "postgresql+psycopg://node:ge@he/im@db/node",
        "postgresql+psycopg://node@db/node?password=geheim",
        "postgresql+psycopg://node@db/node?sslpassword=geheim",
    ],
)
def test_a_password_in_the_file_is_refused_with_the_way_out_and_not_told(tmp_path: Path, url: str) -> None:
    file = tmp_path / "node.toml"
    file.write_text(f'[database]\nurl = "{url}"\n', encoding="utf-8")
    with pytest.raises(ConfigError, match="PACS_AI_NODE__DATABASE__URL in the environment") as error:
        load(file, {"PACS_AI_NODE__DATABASE__URL": "sqlite"})
    assert "heim" not in str(error.value)
    assert "im@" not in str(error.value)


def test_a_database_with_a_password_comes_from_the_environment_and_is_not_shown() -> None:
    url = "postgresql+psycopg://node:geheim@db/node"
    settings = load(None, {"PACS_AI_NODE__DATABASE__URL": url})
    assert settings.database.url == url
    assert "geheim" not in repr(settings)


@pytest.mark.parametrize("url", ["mysql://node:geheim@db/node", "sqlite:///x", "postgresql://node:geheim@db/node", ""])
def test_another_database_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(ConfigError, match="there are: sqlite") as error:
        load(None, {"PACS_AI_NODE__DATABASE__URL": f'"{url}"'})
    assert "geheim" not in str(error.value)
