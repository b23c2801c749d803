/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The superblock says whose store it is, and in which state it was left. It lies there twice,
 * always both written: one that is damaged costs nothing, and never must an older state be
 * believed.
 */
#include <errno.h>
#include <string.h>
#include <sys/random.h>

#include "backing/inside.h"
#include "base/hash.h"

#define MAGIC "zcback1"
#define COPIES 2u
#define BLANK_BYTES (128u * 1024) /* zeros there: nobody's */
#define DATA_ALIGN (1u << 20)
#define FRONT_BYTES (ZC_WORDS_AT + DATA_ALIGN) /* that are neither words nor data, at most */
#define SEGMENT_MIN (1u << 20)
#define SEGMENT_PAGES 32u /* so that the largest record takes half of it at most */
#define SEGMENTS_MIN 4u
#define SEGMENTS_MAX (1u << 21)

_Static_assert(COPIES *ZC_SUPER_BYTES <= ZC_WORDS_AT, "superblocks end before the words");

static const struct {
    uint32_t at;
    const char *magic, *name;
} strangers[] = {
    {1080, "\x53\xef", "ext4"},
    {1024, "\x10\x20\xf5\xf2", "f2fs"},
    {0, "XFSB", "xfs"},
    {65600, "_BHRfS_M", "btrfs"},
    {4086, "SWAPSPACE2", "swap"},
    {16374, "SWAPSPACE2", "swap"},
    {65526, "SWAPSPACE2", "swap"},
    {0, "LUKS\xba\xbe", "LUKS"},
    {512, "EFI PART", "partitions"},
    {510, "\x55\xaa", "partitions"},
    {0, "hsqs", "squashfs"},
    {0, "ANDROID!", "a boot image"},
};

/* ---- geometry ---- */

static uint64_t align_up(uint64_t n, uint64_t by)
{
    return (n + by - 1) & ~(by - 1);
}

size_t zc_segment_bytes(uint32_t page_size)
{
    return zc_max(SEGMENT_MIN, (size_t)SEGMENT_PAGES * page_size);
}

static void set_unit(struct zc_geometry *geometry, enum zc_layout layout, uint32_t page_size)
{
    bool is_packed = layout == ZC_PACKED;

    geometry->unit = is_packed ? zc_segment_bytes(page_size) : page_size;
    geometry->stride = is_packed ? ZC_SLOTS * sizeof(uint32_t) : sizeof(struct zc_slot);
}

static uint64_t least_count(enum zc_layout layout)
{
    return layout == ZC_PACKED ? SEGMENTS_MIN : 1;
}

static uint64_t least_size(enum zc_layout layout, uint32_t page_size)
{
    struct zc_geometry geometry;

    set_unit(&geometry, layout, page_size);
    return FRONT_BYTES + least_count(layout) * (geometry.unit + geometry.stride);
}

int zc_geometry(uint64_t size, enum zc_layout layout, uint32_t page_size, struct zc_geometry *out)
{
    uint64_t most = layout == ZC_PACKED ? SEGMENTS_MAX : (uint64_t)UINT32_MAX;

    set_unit(out, layout, page_size);
    out->count = size > FRONT_BYTES ? (size - FRONT_BYTES) / (out->unit + out->stride) : 0;
    if (out->count > most)
        out->count = most;
    out->data_at = align_up(ZC_WORDS_AT + out->count * out->stride, DATA_ALIGN);
    return out->count < least_count(layout) ? -ENOSPC : 0;
}

/* ---- reading ---- */

static uint64_t checksum(const struct zc_super *super)
{
    size_t from = offsetof(struct zc_super, serial);

    return zc_hash((const char *)super + from, sizeof(*super) - from);
}

static bool is_ended(const char *text, size_t size)
{
    return memchr(text, '\0', size);
}

static bool is_valid(const struct zc_super *super)
{
    struct zc_geometry geometry;

    return memcmp(super->magic, MAGIC, sizeof(super->magic)) == 0 &&
           super->checksum == checksum(super) && super->state >= ZC_SUPER_CLEAN &&
           super->state <= ZC_SUPER_OWING && super->layout <= ZC_IN_PLACE &&
           super->page_size >= ZC_BLOCK && super->page_size <= 1u << 20 &&
           zc_is_pow2(super->page_size) && is_ended(super->pool, sizeof(super->pool)) &&
           is_ended(super->boot_id, sizeof(super->boot_id)) &&
           super->codecs_size <= sizeof(super->codecs) &&
           zc_geometry(super->size, super->layout, super->page_size, &geometry) == 0;
}

/* What a medium begins with. */
struct beginning {
    uint64_t size; /* bytes that were read */
    union {
        struct zc_super supers[COPIES];
        char bytes[BLANK_BYTES];
    };
};

static const struct zc_super *newest(const struct beginning *beginning)
{
    const struct zc_super *found = NULL;

    for (size_t i = 0; i < COPIES && (i + 1) * ZC_SUPER_BYTES <= beginning->size; i++) {
        const struct zc_super *super = &beginning->supers[i];
        if (is_valid(super) && (!found || super->serial > found->serial))
            found = super;
    }
    return found;
}

static bool is_ours(const struct beginning *beginning)
{
    bool is_so = false;

    for (size_t i = 0; i < COPIES; i++)
        is_so |= memcmp(beginning->supers[i].magic, MAGIC, sizeof(MAGIC)) == 0;
    return is_so;
}

static bool is_blank(const struct beginning *beginning)
{
    return beginning->size == 0 ||
           (beginning->bytes[0] == 0 &&
            memcmp(beginning->bytes, beginning->bytes + 1, (size_t)beginning->size - 1) == 0);
}

static const char *stranger(const struct beginning *beginning)
{
    for (size_t i = 0; i < sizeof(strangers) / sizeof(*strangers); i++) {
        if (memcmp(beginning->bytes + strangers[i].at, strangers[i].magic,
                   strlen(strangers[i].magic)) == 0)
            return strangers[i].name;
    }
    return "something else";
}

/* ---- what is to be done with it ---- */

static void read_boot_id(const char *proc_dir, char id[ZC_BOOT_ID_BYTES])
{
    char path[256];

    memset(id, 0, ZC_BOOT_ID_BYTES);
    snprintf(path, sizeof(path), "%s/sys/kernel/random/boot_id", proc_dir ? proc_dir : "/proc");
    FILE *file = fopen(path, "re");
    if (!file)
        return;
    if (!fgets(id, ZC_BOOT_ID_BYTES, file))
        id[0] = '\0';
    fclose(file);
}

static const char *layout_name(uint32_t layout)
{
    return layout == ZC_PACKED ? "packed" : "in_place";
}

/* 0, or why the store that is there is not the one that was asked for. */
static int check_same(const struct zc_super *super, const struct zc_backing_config *config,
                      uint64_t medium_size, struct zc_text *why)
{
    if (strcmp(super->pool, config->pool) != 0)
        zc_text_add(why, "it is pool %s's, not %s's", super->pool, config->pool);
    else if (super->layout != config->layout)
        zc_text_add(why, "its layout is %s, not %s", layout_name(super->layout),
                    layout_name(config->layout));
    else if (super->page_size != config->page_size)
        zc_text_add(why, "its pages are of %u bytes, not %u", super->page_size, config->page_size);
    else if (config->size && config->size != super->size)
        zc_text_add(why, "it was made with %llu bytes, not %llu", (unsigned long long)super->size,
                    (unsigned long long)config->size);
    else if (super->size > medium_size)
        zc_text_add(why, "it was made with %llu bytes, of which %llu are left",
                    (unsigned long long)super->size, (unsigned long long)medium_size);
    else
        return 0;
    return -EINVAL;
}

static int check_fresh(struct zc_backing *backing, const struct zc_super *super,
                       const char *boot_id, struct zc_text *why)
{
    const char *what = NULL;

    if (super->state == ZC_SUPER_CLEAN)
        return 0;
    if (!boot_id[0] || strcmp(boot_id, super->boot_id) != 0)
        what = "it was not closed before the system stopped";
    else if (super->state == ZC_SUPER_OWING)
        what = "its last changes could not be written";
    else if (backing->medium.io.sync(backing->medium.io.arg, backing->medium.meta) != 0)
        what = "what was written last did not reach it"; /* the system said so to nobody yet */
    if (!what)
        return 0;
    zc_text_add(why, "stale: %s", what);
    return -ESTALE;
}

static int check_found(struct zc_backing *backing, const struct beginning *beginning,
                       const struct zc_backing_config *config, const char *boot_id,
                       struct zc_text *why)
{
    const struct zc_super *super = newest(beginning);

    if (super) {
        int error = check_same(super, config, backing->medium.info.size, why);
        return error ? error : check_fresh(backing, super, boot_id, why);
    }
    if (is_ours(beginning)) {
        zc_text_add(why, "its superblocks are damaged");
        return -EUCLEAN;
    }
    zc_text_add(why, "it holds %s", stranger(beginning));
    return -EEXIST;
}

static int make_new(struct zc_backing *backing, const struct zc_backing_config *config,
                    struct zc_text *why)
{
    struct zc_medium *medium = &backing->medium;
    struct zc_super *super = &backing->super;
    int error = 0;

    *super = (struct zc_super){.magic = MAGIC,
                               .size = config->size ? config->size : medium->info.size,
                               .layout = config->layout,
                               .page_size = config->page_size,
                               .codecs_size = (uint32_t)config->codecs_size};
    snprintf(super->pool, sizeof(super->pool), "%s", config->pool);
    if (config->codecs_size)
        memcpy(super->codecs, config->codecs, config->codecs_size);
    if (getrandom(&super->id, sizeof(super->id), 0) != sizeof(super->id))
        return -EIO;

    if (medium->info.is_device && super->size > medium->info.size) {
        zc_text_add(why, "%llu bytes are more than the %llu it has",
                    (unsigned long long)super->size, (unsigned long long)medium->info.size);
        return -ENOSPC;
    }
    if (zc_geometry(super->size, super->layout, super->page_size, &backing->geometry) != 0) {
        zc_text_add(why, "%llu bytes are too few; %llu make a store",
                    (unsigned long long)super->size,
                    (unsigned long long)least_size(super->layout, super->page_size));
        return -ENOSPC;
    }
    if (config->size && medium->info.is_file)
        error = medium->io.extend(medium->io.arg, medium->meta, config->size);
    if (error == -ENOSPC)
        zc_text_add(why, "no room for %llu bytes; choose a smaller size, or another place",
                    (unsigned long long)config->size);
    return error ? error : zc_medium_zero(medium, 0, backing->geometry.data_at);
}

int zc_super_write(struct zc_backing *backing)
{
    struct zc_super *super = &backing->super;
    int error = 0;

    super->serial++;
    super->checksum = checksum(super);
    for (size_t i = 0; i < COPIES && !error; i++)
        error = zc_medium_write(&backing->medium, backing->medium.meta, super, sizeof(*super),
                                i * ZC_SUPER_BYTES, ZC_WEAR_METADATA);
    return error;
}

/* The store that is there. -ENOENT: one is to be made. */
static int find(struct zc_backing *backing, const struct beginning *beginning,
                const struct zc_backing_config *config, const char *boot_id, struct zc_text *why)
{
    if (config->reset || is_blank(beginning))
        return -ENOENT;
    int error = check_found(backing, beginning, config, boot_id, why);
    if (error == -ESTALE && config->reset_stale) {
        zc_text_free(why);
        return -ENOENT;
    }
    if (error)
        return error;
    backing->super = *newest(beginning);
    zc_geometry(backing->super.size, backing->super.layout, backing->super.page_size,
                &backing->geometry);
    return 0;
}

static int find_or_make(struct zc_backing *backing, const struct zc_backing_config *config,
                        struct beginning *beginning, struct zc_text *why)
{
    struct zc_medium *medium = &backing->medium;
    char boot_id[ZC_BOOT_ID_BYTES];
    int error;

    read_boot_id(config->proc_dir, boot_id);
    beginning->size = medium->info.size < BLANK_BYTES ? medium->info.size : BLANK_BYTES;
    error = zc_medium_read(medium, medium->meta, beginning->bytes, (size_t)beginning->size, 0);
    if (error)
        return error;
    error = find(backing, beginning, config, boot_id, why);
    if (error == -ENOENT)
        error = make_new(backing, config, why);
    if (error)
        return error;

    backing->super.generation++;
    backing->super.state = ZC_SUPER_OPEN;
    memcpy(backing->super.boot_id, boot_id, sizeof(boot_id));
    error = zc_super_write(backing);
    return error ? error : zc_medium_sync(medium);
}

int zc_super_open(struct zc_backing *backing, const struct zc_backing_config *config,
                  struct zc_text *why)
{
    struct zc_text what = {0};
    struct beginning *beginning = calloc(1, sizeof(*beginning));

    int error = beginning ? find_or_make(backing, config, beginning, &what) : -ENOMEM;
    if (what.data)
        zc_text_add(why, "backing store %s: %s%s", config->path, what.data,
                    error == -ENOSPC ? "" : "; choose another, or reset=1 to lose what it holds");
    else if (error)
        zc_text_add(why, "backing store %s: %s", config->path, strerror(-error));
    zc_text_free(&what);
    free(beginning);
    return error;
}
