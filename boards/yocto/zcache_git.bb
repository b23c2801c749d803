# SPDX-License-Identifier: Apache-2.0
# Yocto's recipe: in a layer's recipes-support/zcache/, with ZCACHE, of a checkout in which `make build` has run (it
# unpacks the third-party sources, which a build here may not fetch), in conf/local.conf. Untested here.
SUMMARY = "Compressed memory: zcached"
HOMEPAGE = "docs/install.md in the sources"
LICENSE = "Apache-2.0 & BSD-2-Clause & BSD-3-Clause & MIT"
LIC_FILES_CHKSUM = "file://LICENSE;md5=3b83ef96387f14655fc854ddc3c6bd57"

ZCACHE ?= "${THISDIR}/../.."
inherit externalsrc systemd update-rc.d
EXTERNALSRC = "${ZCACHE}"

# Compiled by the layer's own toolchain; `host` is what native/Makefile calls whatever CC compiles for.
do_compile() {
    oe_runmake -f native/Makefile CC="${CC}" LDFLAGS="${LDFLAGS} -pthread" WARNINGS= build/host/zcached
}

do_install() {
    boot=${S}/agent/zcache_agent/boot
    install -d ${D}${nonarch_libdir}/zcache ${D}${localstatedir}/lib
    install -m 0700 ${B}/build/host/zcached ${D}${nonarch_libdir}/zcache/zcached
    install -m 0755 $boot/zcached-service ${D}${nonarch_libdir}/zcache/zcached-service
    install -D -m 0755 $boot/zcached.init ${D}${sysconfdir}/init.d/zcached
    install -D -m 0644 $boot/zcached.service ${D}${systemd_system_unitdir}/zcached.service
}

SYSTEMD_SERVICE:${PN} = "zcached.service"
INITSCRIPT_NAME = "zcached"
INITSCRIPT_PARAMS = "start 19 2 3 4 5 . stop 85 0 1 6 ."
FILES:${PN} += "${nonarch_libdir}/zcache ${systemd_system_unitdir}"
COMPATIBLE_HOST = "(aarch64|arm|x86_64).*-linux"
