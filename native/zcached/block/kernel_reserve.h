/* SPDX-License-Identifier: Apache-2.0 */
/* vm.min_free_kbytes: what the kernel keeps free for those who must not wait for memory. */
#ifndef ZC_ZCACHED_KERNEL_RESERVE_H
#define ZC_ZCACHED_KERNEL_RESERVE_H

/* Makes it 8 MiB, where it is less. What it was, in KiB; 0: it was left as it is. */
unsigned long zc_kernel_reserve_raise(void);
/* kib: what raise returned; 0: nothing is to be done. */
void zc_kernel_reserve_restore(unsigned long kib);

#endif
