# SPDX-License-Identifier: Apache-2.0
"""android/ and boards/, as far as tools of Debian's tell: what their own build systems would make of it is untested."""

from __future__ import annotations

import os
import re
import subprocess
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from tests.support import ROOT
from tools import module
from zcache_agent import __version__
from zcache_agent.install.kinds import BOOT, KINDS

HERE = Path(__file__).parent
POLICY = ROOT / "android/sepolicy"
BOARDS = ROOT / "boards"


def run(*command: str | Path, given: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PATH": f"{os.environ['PATH']}:/usr/sbin"} | environment
    words = list(map(str, command))
    return subprocess.run(words, input=given, capture_output=True, text=True, timeout=120, check=False, env=environment)


# ---- SELinux ----


def expanded(variant: str) -> str:
    ran = run("m4", "-D", f"target_build_variant={variant}", HERE / "macros.m4", POLICY / "zcached.te")
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def compile_policy(directory: Path, variant: str = "user", rules: str = "") -> subprocess.CompletedProcess[str]:
    """Into `policy`, with the rules besides ours."""
    base, end = ((HERE / name).read_text() for name in ("base.te", "base_end.te"))
    genfs = (POLICY / "genfs_contexts").read_text()
    (directory / "policy.conf").write_text(base + expanded(variant) + rules + end + genfs)
    return run("checkpolicy", "-M", "-c", "30", "-o", directory / "policy", directory / "policy.conf")


@pytest.mark.parametrize("variant", ["user", "userdebug"])
def test_the_policy_compiles_and_labels_files(tmp_path: Path, variant: str) -> None:
    compiled = compile_policy(tmp_path, variant)
    assert compiled.returncode == 0, compiled.stderr
    labelled = run("sefcontext_compile", "-p", tmp_path / "policy", "-o", tmp_path / "labels", POLICY / "file_contexts")
    assert (labelled.returncode, labelled.stderr) == (0, "")
    unknown = tmp_path / "unknown"
    unknown.write_text("/vendor/bin/other u:object_r:other_exec:s0\n")
    wrong = run("sefcontext_compile", "-p", tmp_path / "policy", "-o", tmp_path / "labels", unknown)
    assert "other_exec" in wrong.stderr


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ("allow shell zcached_data_file:file open;", "neverallow"),
        ("allow shell zcached:unix_stream_socket connectto;", "neverallow"),
        ("allow zcached nothing:file read;", "nothing"),
        ("allow zcached zcached_data_file:file fly;", "fly"),
    ],
)
def test_what_must_not_be_does_not_compile(tmp_path: Path, rule: str, said: str) -> None:
    compiled = compile_policy(tmp_path, rules=f"{rule}\n")
    assert compiled.returncode != 0
    assert said in compiled.stderr


def test_only_a_build_to_debug_reads_other_processes() -> None:
    assert "sys_ptrace" in expanded("userdebug")
    assert "sys_ptrace" not in expanded("user")


def test_the_modules_rules_compile(tmp_path: Path) -> None:
    """In Magisk's form, which has spaces where a policy has a colon."""
    lines = (BOOT / "module/sepolicy.rule").read_text().splitlines()
    matches = [re.fullmatch(r"allow (\w+) (\w+) (\w+) (\{ [\w ]+ \}|\w+)", line) for line in lines]
    assert all(matches), lines
    rules = "type magisk, domain;\ntype ksu, domain;\n"
    rules += "".join(f"allow {match[1]} {match[2]}:{match[3]} {match[4]};\n" for match in matches if match)
    compiled = compile_policy(tmp_path, rules=rules)
    assert compiled.returncode == 0, compiled.stderr


def test_properties_are_the_services() -> None:
    listed = (POLICY / "property_contexts").read_text()
    used = set(re.findall(r"persist\.vendor\.zcache\.\w+", (ROOT / "android/zcached.rc").read_text()))
    assert {line.split()[0] for line in listed.splitlines() if not line.startswith("#")} == used


def test_androids_init_starts_what_is_there() -> None:
    text = (ROOT / "android/zcached.rc").read_text()
    commands = re.findall(r"^service (\w+) (\S+) (\w+)", text, re.MULTILINE)
    labelled = (POLICY / "file_contexts").read_text()
    usage = (BOOT / "zcached-service").read_text()
    started = set(re.findall(r"^    start (\w+)", text, re.MULTILINE))
    assert started == {name for name, _, _ in commands}
    for _, program, word in commands:
        assert f"{program} " in labelled
        assert f"zcached-service {word} " in usage


# ---- systemd, procd ----


def test_the_unit(tmp_path: Path) -> None:
    units = tmp_path / "etc/systemd/system"
    units.mkdir(parents=True)
    base = tmp_path / KINDS["systemd"].base.lstrip("/")
    base.mkdir(parents=True)
    (base / "zcached-service").touch(0o755)
    names = ("sysinit", "basic", "shutdown", "multi-user", "local-fs")
    for name in names:
        (units / f"{name}.target").write_text(f"[Unit]\nDescription={name}\n")
    unit = units / "zcached.service"
    unit.write_bytes((BOOT / "zcached.service").read_bytes())
    unit.chmod(0o644)
    verify = ("systemd-analyze", "verify", "--man=no", f"--root={tmp_path}", "zcached.service")
    checked = run(*verify)
    assert (checked.returncode, checked.stderr) == (0, "")
    unit.write_text(unit.read_text().replace("KillMode=process", "KillMode=proces"))
    assert "proces" in run(*verify).stderr


PROCD = """
config_load() { [ "$1" = zcache ]; }
config_get() { eval "$1=\\${UCI_$3:-${4-}}"; }
procd_open_instance() { :; }
procd_close_instance() { :; }
procd_set_param() { echo "$*"; }
procd_add_reload_trigger() { echo "trigger $*"; }
. %s
start_service
service_triggers
"""


@pytest.mark.parametrize(
    ("options", "command"),
    [
        ({}, "command /usr/lib/zcache/zcached-service run --swap none"),
        ({"UCI_limit": "30%", "UCI_swap": "64M"}, "command /usr/lib/zcache/zcached-service run --limit 30% --swap 64M"),
    ],
)
def test_openwrts_script(options: Mapping[str, str], command: str) -> None:
    ran = run("sh", "-eu", "-c", PROCD % (BOOT / "zcached.procd"), **options)
    assert ran.returncode == 0, ran.stderr
    lines = ran.stdout.splitlines()
    assert lines[0] == command
    assert {"respawn", "file /etc/config/zcache", "trigger zcache"} <= set(lines)


# ---- packages ----


Modes = dict[str, int]


def installed(root: Path) -> Modes:
    """Modes by path."""
    return {f"/{path.relative_to(root)}": path.stat().st_mode & 0o777 for path in root.rglob("*") if path.is_file()}


PROGRAMS: Modes = {"/usr/lib/zcache/zcached": 0o700, "/usr/lib/zcache/zcached-service": 0o755}
BUILDROOT = """
INSTALL = install
generic-package = $(1)
include {recipe}
{builds}/stamp:
\t$(ZCACHE_INSTALL_TARGET_CMDS)
\t$(ZCACHE_INSTALL_INIT_{init})
"""


@pytest.mark.parametrize(
    ("init", "more"),
    [
        ("SYSV", {"/etc/init.d/S19zcached": 0o755}),
        ("SYSTEMD", {"/usr/lib/systemd/system/zcached.service": 0o644}),
    ],
)
def test_buildroots_package(tmp_path: Path, init: str, more: Modes) -> None:
    """Its commands, without its framework."""
    source = checkout(tmp_path / "source")
    recipe = tmp_path / "zcache.mk"
    recipe.write_text((BOARDS / "buildroot/zcache.mk").read_text())
    makefile = BUILDROOT.format(recipe=recipe, builds=source, init=init)
    made = run("make", "-f", "-", f"{source}/stamp", f"TARGET_DIR={tmp_path}/target", given=makefile)
    assert made.returncode == 0, made.stderr
    assert installed(tmp_path / "target") == PROGRAMS | more


def checkout(source: Path) -> Path:
    """A checkout in which a program was built."""
    (source / "build/host").mkdir(parents=True)
    (source / "build/host/zcached").write_text("program")
    (source / "agent").symlink_to(ROOT / "agent")
    return source


def test_yoctos_recipe(tmp_path: Path) -> None:
    source = checkout(tmp_path / "source")
    recipe = (BOARDS / "yocto/zcache_git.bb").read_text()
    functions = dict(re.findall(r"^(do_\w+)\(\) \{\n(.*?)^\}", recipe, re.MULTILINE | re.DOTALL))
    assert set(functions) == {"do_compile", "do_install"}
    directories = {"S": str(source), "B": str(source), "D": f"{tmp_path}/target", "nonarch_libdir": "/usr/lib",
                   "localstatedir": "/var", "sysconfdir": "/etc",
                   "systemd_system_unitdir": "/usr/lib/systemd/system"}  # fmt: skip
    ran = run("sh", "-eu", "-c", functions["do_install"], **directories)
    assert ran.returncode == 0, ran.stderr
    more = {"/etc/init.d/zcached": 0o755, "/usr/lib/systemd/system/zcached.service": 0o644}
    assert installed(tmp_path / "target") == PROGRAMS | more
    md5 = run("md5sum", ROOT / "LICENSE").stdout.split()[0]
    assert f"file://LICENSE;md5={md5}" in recipe


OPENWRT = """
INSTALL_DIR = mkdir -p
INSTALL_BIN = install -m 0755
INSTALL_CONF = install -m 0600
define BuildPackage
all:
\t$(call Package/$(1)/install,$(TARGET))
endef
"""


@pytest.mark.parametrize(("arch", "abi"), [("aarch64", "arm64-v8a"), ("arm", "armeabi-v7a"), ("x86_64", "x86_64")])
def test_openwrts_package(tmp_path: Path, arch: str, abi: str) -> None:
    (tmp_path / "rules.mk").write_text(OPENWRT)
    (tmp_path / "package.mk").write_text("")
    words = {"TOPDIR": tmp_path, "INCLUDE_DIR": tmp_path, "TARGET": tmp_path / "target", "ARCH": arch, "ZCACHE": ROOT}
    made = run("make", "-C", BOARDS / "openwrt", *(f"{name}={value}" for name, value in words.items()))
    assert made.returncode == 0, made.stderr
    found = installed(tmp_path / "target")
    own = {"/etc/init.d/zcached": 0o755, "/etc/config/zcache": 0o600}
    assert found == PROGRAMS | {"/usr/lib/zcache/zcached": 0o755} | own
    program = (ROOT / f"agent/zcache_agent/_bin/{abi}/zcached").read_bytes()
    assert (tmp_path / "target/usr/lib/zcache/zcached").read_bytes() == program


@pytest.mark.parametrize("recipe", ["yocto/zcache_git.bb", "buildroot/zcache.mk", "openwrt/Makefile"])
def test_recipes_build_what_there_is(recipe: str) -> None:
    """The files of this tree that they name are there."""
    text = (BOARDS / recipe).read_text()
    named = re.findall(r"(?:native/Makefile|zcached\.\w+|zcached-service)\b", text)
    assert named
    for name in set(named):
        assert (ROOT / name).exists() or (BOOT / name).exists(), name


# ---- the module's zip ----


def test_the_modules_zip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    zips: Sequence[Path] = [tmp_path / "one.zip", tmp_path / "other.zip"]
    for path in zips:
        module.write(path)
    assert zips[0].read_bytes() == zips[1].read_bytes()
    with zipfile.ZipFile(zips[0]) as archive:
        assert archive.testzip() is None
        names = set(archive.namelist())
        facts = dict(line.split("=", 1) for line in archive.read("module.prop").decode().splitlines())
        installer = archive.read("META-INF/com/google/android/updater-script")
    assert installer == b"#MAGISK\n"
    assert {f"bin/{abi}/zcached" for abi in module.ABIS} | {
        "service.sh",
        "customize.sh",
        "skip_mount",
        "LICENSE",
    } <= names
    assert facts["version"] == __version__
    assert int(facts["versionCode"]) > 0
    assert re.fullmatch(r"[a-zA-Z][a-zA-Z0-9._-]+", facts["id"])
