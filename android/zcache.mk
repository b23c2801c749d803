# SPDX-License-Identifier: Apache-2.0
# For a device's makefile: $(call inherit-product, PATH/TO/zcache/android/zcache.mk). Untested here.

PRODUCT_PACKAGES += zcached zcached-service
BOARD_VENDOR_SEPOLICY_DIRS += $(dir $(lastword $(MAKEFILE_LIST)))sepolicy
PRODUCT_VENDOR_PROPERTIES += persist.vendor.zcache.enable?=1
