################################################################################
#
# zcache: zcached, compressed memory. Untested here.
# SPDX-License-Identifier: Apache-2.0
#
################################################################################

# Of a checkout in which `make build` has run, which unpacks the third-party sources:
# ZCACHE_OVERRIDE_SRCDIR in local.mk.
ZCACHE_VERSION = local
ZCACHE_SITE = $(ZCACHE_PKGDIR)/../..
ZCACHE_SITE_METHOD = local
ZCACHE_LICENSE = Apache-2.0, BSD-2-Clause, BSD-3-Clause, MIT
ZCACHE_LICENSE_FILES = LICENSE

# `host` is what native/Makefile calls whatever CC compiles for.
define ZCACHE_BUILD_CMDS
	$(TARGET_MAKE_ENV) $(MAKE) -C $(@D) -f native/Makefile \
		CC="$(TARGET_CC)" LDFLAGS="$(TARGET_LDFLAGS) -pthread" WARNINGS= build/host/zcached
endef

define ZCACHE_INSTALL_TARGET_CMDS
	$(INSTALL) -D -m 0700 $(@D)/build/host/zcached $(TARGET_DIR)/usr/lib/zcache/zcached
	$(INSTALL) -D -m 0755 $(@D)/agent/zcache_agent/boot/zcached-service \
		$(TARGET_DIR)/usr/lib/zcache/zcached-service
endef

define ZCACHE_INSTALL_INIT_SYSV
	$(INSTALL) -D -m 0755 $(@D)/agent/zcache_agent/boot/zcached.init $(TARGET_DIR)/etc/init.d/S19zcached
endef

define ZCACHE_INSTALL_INIT_SYSTEMD
	$(INSTALL) -D -m 0644 $(@D)/agent/zcache_agent/boot/zcached.service \
		$(TARGET_DIR)/usr/lib/systemd/system/zcached.service
endef

$(eval $(generic-package))
