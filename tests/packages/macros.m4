dnl SPDX-License-Identifier: Apache-2.0
dnl What android/sepolicy uses of Android's macros, in words of our own.
define(`r_file_perms', `{ getattr open read ioctl lock map watch watch_reads }')dnl
define(`w_file_perms', `{ open append write lock map }')dnl
define(`rw_file_perms', `{ getattr open read ioctl lock map watch watch_reads append write }')dnl
define(`rx_file_perms', `{ getattr open read ioctl lock map watch watch_reads execute execute_no_trans }')dnl
define(`create_file_perms', `{ create rename setattr unlink getattr open read ioctl lock map append write }')dnl
define(`create_dir_perms', `{ create reparent rename rmdir setattr open getattr read search ioctl add_name remove_name write }')dnl
define(`create_socket_perms_no_ioctl', `{ create read getattr write setattr lock append bind connect getopt setopt shutdown map }')dnl
define(`create_stream_socket_perms', `{ create read getattr write setattr lock append bind connect getopt setopt shutdown map listen accept ioctl }')dnl
define(`r_dir_file', `allow $1 $2:dir { open getattr read search };
allow $1 $2:{ file lnk_file } r_file_perms;')dnl
define(`init_daemon_domain', `allow init $1_exec:file { getattr open read map execute };
allow init $1:process transition;
allow $1 $1_exec:file { entrypoint open read execute getattr map };
type_transition init $1_exec:process $1;')dnl
define(`io_uring_use', `type $1_iouring, domain;
type_transition $1 $1:anon_inode $1_iouring "[io_uring]";
allow $1 $1_iouring:anon_inode { create map read write };')dnl
define(`vendor_internal_prop', `type $1, property_type, vendor_property_type, vendor_internal_property_type;')dnl
define(`set_prop', `allow $1 $2:property_service set;')dnl
define(`userdebug_or_eng', ifelse(target_build_variant, `user', , `$1'))dnl
