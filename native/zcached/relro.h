/* SPDX-License-Identifier: Apache-2.0 */
/* Makes read-only what is relocated at the start and constant from then on (PT_GNU_RELRO): tables of functions above
 * all. A dynamic loader does that, and musl's start-up code of static programs does not. */
#ifndef ZC_ZCACHED_RELRO_H
#define ZC_ZCACHED_RELRO_H

/* Whole pages of the OS; no error: what cannot be protected stays as it was. */
void zc_relro_protect(void);

#endif
