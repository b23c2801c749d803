/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Backing stores: where a pool's records go when they leave memory, a file or a block device. A
 * record is a run of 1..16 adjacent pages of an object as it is kept in memory: a zpage, a page as
 * it is, an extent. One backing store belongs to one pool.
 *
 *   packed    records of any size in segments that are filled from the front, by large writes;
 *             space is got back by cleaning: what is live in a sparse segment is written elsewhere
 *   in place  page i of one object at i * page_size of the data area, uncompressed
 *
 * Writing goes in four steps. (1) zc_batch_add() gives room for each record, which the caller
 * fills; (2) zc_batch_commit() writes them all and says their places; (3) under its own locks, the
 * caller lets those of its pages that are still what was written speak of their places, and forgets
 * the other records; (4) zc_batch_settle() makes what is left live.
 *
 * What is live comes back after a clean stop, and after kill -9 on the same boot: each record has a
 * word on the medium, changed through the page cache before settle, forget and move return. So a
 * page that was put or flushed over a written one never comes back, and nothing is synced but by
 * opening and closing. After a crash of the system the store is stale.
 *
 * Everything on the medium has a checksum, seeded with what it is and where: bytes that are
 * damaged, of another record, or of the same place's past are -EIO or not there, never taken for
 * what they are not.
 *
 * Thread-safe but for recover and close, and for one batch, which belongs to one thread at a time;
 * several batches may be filled and committed at once. Nothing here takes a caller's lock, and no
 * lock is held while records are written or read.
 */
#ifndef ZC_BACKING_BACKING_H
#define ZC_BACKING_BACKING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

struct zc_frames;
struct zc_text;
struct zc_backing;
struct zc_batch;

#define ZC_BLOCK 4096u      /* bytes: what is written and read is aligned to it */
#define ZC_RECORD_PAGES 16u /* at most */
#define ZC_CODECS_MAX_BYTES 4096u

/* Where a record is, of ZC_PLACE_BITS; 0: nowhere. Of this opening of the store only. The same
 * place is given again only after thousands of other records were there. */
typedef uint64_t zc_place;
#define ZC_PLACE_BITS 60u

enum zc_layout { ZC_PACKED, ZC_IN_PLACE };

/*
 * System calls, replaced by tests. Each gets `arg`, and returns what the system call does, or
 * -errno.
 */
struct zc_medium_info {
    uint64_t size;           /* bytes */
    bool is_device, is_file; /* a block device, a regular file; else neither */
    bool tells_direct;       /* STATX_DIOALIGN says that O_DIRECT works, by ZC_BLOCK at most */
};

struct zc_io {
    void *arg;
    int (*open)(void *arg, const char *path, int flags); /* new files: mode 0600 */
    void (*close)(void *arg, int fd);
    int (*lock)(void *arg, int fd); /* flock, exclusive, not waiting */
    int (*info)(void *arg, int fd, struct zc_medium_info *out);
    ssize_t (*pread)(void *arg, int fd, void *bytes, size_t size, uint64_t at);
    int (*is_cached)(void *arg, int fd, uint64_t at); /* is the block in the page cache? */
    /* The write side. */
    ssize_t (*pwritev)(void *arg, int fd, const struct iovec *iov, int count, uint64_t at);
    int (*sync)(void *arg, int fd);                  /* fdatasync */
    int (*extend)(void *arg, int fd, uint64_t size); /* of a file; reserves the space if it can */
    int (*zero)(void *arg, int fd, uint64_t at, uint64_t size);    /* -ENOTSUP: write zeros */
    int (*discard)(void *arg, int fd, uint64_t at, uint64_t size); /* the contents are not needed */
};

struct zc_backing_config {
    const char *path;
    enum zc_layout layout;
    uint32_t page_size;   /* bytes, as the frames' */
    uint64_t size;        /* bytes; a file is made, or extended to it. 0: as large as it is */
    const char *pool;     /* name, ZC_POOL_NAME_MAX bytes at most */
    const void *codecs;   /* the caller's own, what the numbers of codecs mean; of a new store */
    size_t codecs_size;   /* ZC_CODECS_MAX_BYTES at most */
    bool reset;           /* make it new, whatever is there */
    bool reset_stale;     /* make it new where it would be -ESTALE */
    bool must_be_direct;  /* refuse a medium whose pages go through the page cache: for swap */
    const char *proc_dir; /* where the boot's id is read; NULL: "/proc" */
    struct zc_frames *frames; /* told of the memory used, see zc_frames_charge(); NULL: nobody is */
    const struct zc_io *io;   /* copied; NULL: the system */
};

/*
 * Opens a store, or makes one: of a new or empty file, of a file or device that begins with zeros,
 * or by `reset`. Nobody else can open it meanwhile. Where the medium takes O_DIRECT, records go by
 * it.
 *
 * -EBUSY: in use; -EEXIST: holds something else; -EINVAL: of another pool, page size, layout or
 * size, or neither file nor device; -EUCLEAN: its superblocks are damaged; -ESTALE: not stopped
 * cleanly, and this is another boot, or its last words could not be written; -ENOTSUP:
 * must_be_direct, and it is not; -ENOSPC: too small; -ENOENT: no such file, and no size to make one
 * of; -ENOMEM; or what the system says. `why` (never NULL) gets one line that names the path and
 * the way out; nothing if -ENOMEM.
 */
int zc_backing_open(const struct zc_backing_config *config, struct zc_backing **out,
                    struct zc_text *why);

struct zc_record {
    uint64_t object;
    uint32_t index;       /* of the first page */
    uint32_t size;        /* bytes, at least 1; less than ZC_RECORD_PAGES pages; in place: a page */
    uint16_t live;        /* bit i: page index + i is live; not 0 */
    uint8_t pages;        /* 1..ZC_RECORD_PAGES; in place: 1 */
    uint8_t codec, flags; /* the caller's own */
};

/*
 * Hands every live record to `visit`, which says whether it is wanted: else it is forgotten. To be
 * called once, after open and before all else; of a new store there are none. A page may be named
 * twice, if a kill met it between zc_backing_move()'s two writes: its bytes are the same, and
 * `visit` refuses the second. What is damaged is left out, and counted. 0, -EIO: the medium cannot
 * be read, or -ENOMEM.
 */
typedef bool zc_recover_visit(void *arg, const struct zc_record *record, zc_place place);
int zc_backing_recover(struct zc_backing *backing, zc_recover_visit *visit, void *arg);

/* Every batch must have been destroyed, and no call be running. `clean`: what is live comes back
 * on any boot; else as after a kill. 0, or -errno: it could not be stopped cleanly; it is closed
 * all the same. */
int zc_backing_close(struct zc_backing *backing, bool clean);

/* What the numbers of codecs mean, as it was last set; valid until the next set. */
const void *zc_backing_codecs(const struct zc_backing *backing, size_t *size);
/* To be done before a record which needs it is committed. -E2BIG, or -errno: it stays as it was. */
int zc_backing_set_codecs(struct zc_backing *backing, const void *codecs, size_t size);

/* ---- writing ---- */

/* A batch has a buffer as large as a segment (1 MiB, or 32 pages if that is more), so it is made
 * for a round of writeback and destroyed after it. coming: about how many bytes that round will write; if
 * it is many, buffers come in huge pages where the OS has them. 0 or -ENOMEM. */
int zc_batch_create(struct zc_backing *backing, size_t coming, struct zc_batch **out);
/* What was committed must have been settled; what was only added is dropped. */
void zc_batch_destroy(struct zc_batch *batch);

/*
 * *bytes: where record->size bytes are to be written before the next call for this batch. In place,
 * the page must have no live record, nor be in the batch twice.
 *
 * -EAGAIN: the batch is full, to be committed and settled; -ENOSPC: the store is full, for it to be
 * cleaned; -EINVAL: its size; in place, of another object; -ERANGE: in place, beyond its
 * end; -EIO: see zc_backing_stats.is_failed. Nothing was added.
 */
int zc_batch_add(struct zc_batch *batch, const struct zc_record *record, void **bytes);

/* Begins to write what was added, by a thread, so that the caller can fill another batch meanwhile. Then
 * nothing may be done with this one but zc_batch_commit(), which waits for it. Where there is no thread to
 * be had, nothing happens until then. */
void zc_batch_start(struct zc_batch *batch, zc_place *places);

/* Writes what was added, places[i] (as many as were added) being the i-th's: it can be read from
 * now on, in this process. After zc_batch_start(), with the same places. -errno: nothing of it is written, and
 * the batch is empty again. */
int zc_batch_commit(struct zc_batch *batch, zc_place *places);

/* Makes what was committed, and not been forgotten since, live; the batch is empty again.
 * -errno: see is_failed. */
int zc_batch_settle(struct zc_batch *batch);

size_t zc_batch_count(const struct zc_batch *batch); /* records added */

/* ---- reading ---- */

/* Bytes of room that reading a record of this size takes. */
size_t zc_backing_room(size_t size);

/*
 * Reads a record: *bytes are its record->size bytes, somewhere in `room`, which has
 * zc_backing_room(size) bytes and is aligned to ZC_BLOCK. Of *record, object, index and size count.
 * The place was taken from an entry; if the entry is the same after the call, the result is right.
 * -EIO: damaged or not readable; -ENOENT: there is no such record at the place any more, so the
 * entry has changed.
 */
int zc_backing_read(struct zc_backing *backing, zc_place place, const struct zc_record *record,
                    void *room, const void **bytes);

/* ---- what becomes of a record; its owner makes one such call for it at a time ---- */

/* `live` is what is left of the pages of a record of `size` bytes; 0: it is forgotten. In this
 * process that is so whatever is returned. -errno: it could not be written, see is_failed. */
int zc_backing_keep(struct zc_backing *backing, zc_place place, uint32_t size, uint16_t live);

static inline int zc_backing_forget(struct zc_backing *backing, zc_place place, uint32_t size)
{
    return zc_backing_keep(backing, place, size, 0);
}

/*
 * Empties the sparsest segments until `want` are free, or until no more can be gained: writes what
 * is live elsewhere, and tells `moved`. If the owner still has the record at `from`, it calls
 * zc_backing_move() and has it at `to` from then on, both under the lock under which it would
 * forget it, and says true; else false. Then discards what is free: a file's space goes back to its
 * file system. One call at a time. In place there is nothing to clean.
 *
 * Returns how many segments were freed, or -errno.
 */
typedef bool zc_moved(void *arg, const struct zc_record *record, zc_place from, zc_place to);
int64_t zc_backing_clean(struct zc_backing *backing, uint32_t want, zc_moved *moved, void *arg);

/* `live`: the pages that the owner still has, not 0. */
int zc_backing_move(struct zc_backing *backing, zc_place from, zc_place to, uint32_t size,
                    uint16_t live);

/* ---- what it says of itself ---- */

enum zc_wear {
    ZC_WEAR_EVICTED,  /* batches: records and what belongs to them */
    ZC_WEAR_CLEANED,  /* the same, written by cleaning */
    ZC_WEAR_METADATA, /* words, tables, superblocks */
    ZC_WEARS,
};

struct zc_backing_stats {
    enum zc_layout layout;
    uint64_t generation;              /* how often it was opened */
    uint64_t size;                    /* bytes that records may take, with what belongs to them */
    uint64_t segment_size;            /* bytes */
    uint64_t segments, free_segments; /* in place: 0 */
    uint64_t records, live_bytes;     /* live, or committed and not settled yet */
    uint64_t written[ZC_WEARS];       /* bytes, since open */
    uint64_t discarded;               /* bytes, since open */
    uint64_t write_errors, read_errors;
    uint64_t damaged; /* records, words and tables that did not have their checksum */
    bool is_direct;   /* records go by O_DIRECT */
    /* Words are owed to the medium: it could not be written. Adding is refused; reading goes on.
     * Every call that would write tries to make up for it, and succeeding mends the store. Until
     * then a kill leaves a store that is stale, unless not even that could be written. */
    bool is_failed;
};

/* Counters are each right, and may not agree among themselves. */
void zc_backing_get_stats(struct zc_backing *backing, struct zc_backing_stats *out);

#endif
