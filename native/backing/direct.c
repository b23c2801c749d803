/* SPDX-License-Identifier: Apache-2.0 */
/* Apart from io.c because C libraries of before 2022 have a struct statx without the field. */
#include <fcntl.h>
#include <linux/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "backing/inside.h"

bool zc_tells_direct(int fd)
{
    struct statx st = {0};

    if (syscall(SYS_statx, fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &st) != 0)
        return false;
    return st.stx_mask & STATX_DIOALIGN && st.stx_dio_offset_align > 0 &&
           st.stx_dio_offset_align <= ZC_BLOCK && st.stx_dio_mem_align <= ZC_BLOCK;
}
