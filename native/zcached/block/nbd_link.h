/* SPDX-License-Identifier: Apache-2.0 */
/* What the kernel's nbd is asked for: by generic netlink, Linux 4.12 (linux/nbd-netlink.h). Needs CAP_SYS_ADMIN. */
#ifndef ZC_ZCACHED_NBD_LINK_H
#define ZC_ZCACHED_NBD_LINK_H

#include <stddef.h>
#include <stdint.h>

struct zc_nbd_wish {
    uint64_t size;         /* bytes */
    uint64_t block_size;   /* bytes */
    uint64_t server_flags; /* NBD_FLAG_… */
    uint64_t client_flags; /* NBD_CFLAG_… */
    uint64_t timeout;      /* seconds that a request may take */
    const int *sockets;    /* the kernel's ends; it keeps what it needs of them */
    size_t socket_count;
};

/* Makes a device of a free number, *index. 0; -ENOENT: this kernel has no nbd, or one without netlink; or what it
 * says. */
int zc_nbd_connect(const struct zc_nbd_wish *wish, uint32_t *index);
/* Fails what is under way, and whatever comes. When it returns, the kernel uses the sockets no more. */
int zc_nbd_disconnect(uint32_t index);

#endif
