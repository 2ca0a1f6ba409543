"""RabbitMQ without the plugins that are switched off."""

from __future__ import annotations

from pathlib import Path

from anybroker_contract.brokers.rabbitmq import version_of
from anybroker_contract.brokers.rabbitmq_home import lean_home


def installed(root: Path, **applications: str) -> Path:
    home = root / "rabbitmq_server-3.10.8"
    (home / "sbin").mkdir(parents=True)
    (home / "sbin" / "rabbitmq-server").touch()
    (home / "escript").mkdir()
    for name, needs in applications.items():
        folder = home / "plugins" / f"{name}-1.0" / "ebin"
        folder.mkdir(parents=True)
        (folder / f"{name}.app").write_text(
            f"{{application, {name},\n [{{modules, [x]}},\n  {{applications, [kernel,stdlib{needs}]}}]}}.\n"
        )
    return home


def test_only_what_the_server_needs_is_linked(tmp_path: Path) -> None:
    home = installed(
        tmp_path,
        rabbit=",ra,\n  rabbit_common",
        ra=",aten",
        aten="",
        rabbit_common="",
        rabbitmq_management=",cowboy",
        cowboy="",
    )
    folder = tmp_path / "folder"
    server = lean_home(home, folder, Path("/seen"))
    assert server == folder / "home" / "sbin" / "rabbitmq-server"
    plugins = sorted((folder / "home" / "plugins").iterdir())
    assert [path.name for path in plugins] == ["aten-1.0", "ra-1.0", "rabbit-1.0", "rabbit_common-1.0"]
    assert plugins[0].readlink() == Path("/seen/plugins/aten-1.0")
    assert (folder / "home" / "escript").readlink() == Path("/seen/escript")


def test_an_installation_of_another_shape_is_used_as_it_is(tmp_path: Path) -> None:
    assert lean_home(tmp_path, tmp_path / "folder", tmp_path) is None
    assert not (tmp_path / "folder").exists()


def test_the_version_is_in_the_path() -> None:
    assert version_of(Path("/usr/lib/rabbitmq/lib/rabbitmq_server-4.0.5/sbin/rabbitmq-server")) == "4.0.5"
    assert version_of(Path("/opt/rabbitmq/sbin/rabbitmq-server")) is None
