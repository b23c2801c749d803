/* SPDX-License-Identifier: Apache-2.0 */
#include "zcached/relro.h"

#include <link.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <unistd.h>

void zc_relro_protect(void)
{
    uintptr_t address = getauxval(AT_PHDR);
    size_t count = getauxval(AT_PHNUM);
    uintptr_t page_mask = (uintptr_t)sysconf(_SC_PAGESIZE) - 1;
    const ElfW(Phdr) *segments = (const ElfW(Phdr) *)address;
    uintptr_t moved_by = 0; /* by PT_PHDR, which stands before the others */

    for (size_t i = 0; i < count; i++) {
        uintptr_t start = moved_by + segments[i].p_vaddr;
        uintptr_t end = (start + segments[i].p_memsz) & ~page_mask;

        if (segments[i].p_type == PT_PHDR)
            moved_by = address - segments[i].p_vaddr;
        start &= ~page_mask;
        if (segments[i].p_type == PT_GNU_RELRO && end > start)
            mprotect((void *)start, end - start, PROT_READ);
    }
}
