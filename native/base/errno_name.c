/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>

#include "base/base.h"

static const struct {
    int number;
    const char *name;
} names[] = {
#define NAME(e) {e, #e}
    NAME(E2BIG),        NAME(EACCES),       NAME(EADDRINUSE), NAME(EAGAIN), NAME(EBADF),
    NAME(EBUSY),        NAME(ECONNREFUSED), NAME(ECONNRESET), NAME(EEXIST), NAME(EFAULT),
    NAME(EFBIG),        NAME(EILSEQ),       NAME(EINTR),      NAME(EINVAL), NAME(EIO),
    NAME(EISDIR),       NAME(EMFILE),       NAME(EMSGSIZE),   NAME(ENFILE), NAME(ENODEV),
    NAME(ENOENT),       NAME(ENOMEM),       NAME(ENOSPC),     NAME(ENOSYS), NAME(ENOTDIR),
    NAME(ENOTSUP),      NAME(EOVERFLOW),    NAME(EPERM),      NAME(EPIPE),  NAME(EPROTO),
    NAME(ERANGE),       NAME(EROFS),        NAME(ESRCH),      NAME(ESTALE), NAME(ETIMEDOUT),
    NAME(ENAMETOOLONG), NAME(ENOTCONN),     NAME(ENXIO),      NAME(EDQUOT), NAME(ENOTEMPTY),
    NAME(ENODATA),      NAME(EUCLEAN),
#undef NAME
};

const char *zc_errno_name(int error, char buf[16])
{
    int number = error < 0 ? -error : error;

    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        if (names[i].number == number)
            return names[i].name;
    }
    snprintf(buf, 16, "E%d", number);
    return buf;
}
