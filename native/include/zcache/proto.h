/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The data plane's wire format, little-endian, natural alignment. docs/protocol.md explains it.
 *
 * A connection carries requests one after another; answers come back in the order of the requests.
 * A request is a zc_request and `payload` bytes; an answer is a zc_answer and `payload` bytes.
 *
 * Payload of a request for pages, objects or pools, in this order:
 *   keys      count * zc_wire_key, if ZC_F_KEYS; else the keys are (pool, object, index + i)
 *   offsets   count * uint64_t into the segment, if ZC_F_SEGMENT (put, get)
 *   pages     count * page_size bytes (put without ZC_F_SEGMENT)
 * Payload of an answer with status 0:
 *   results   count * zc_result
 *   pages     page_size bytes for each result with status 0 (get without ZC_F_SEGMENT)
 * Payload of an answer with status < 0: a message for people, UTF-8, no newline. Nothing was done.
 */
#ifndef ZCACHE_PROTO_H
#define ZCACHE_PROTO_H

#include <stdint.h>

#define ZC_ABI 1u            /* control tree and data plane; the node `abi` */
#define ZC_MAGIC 0x3163637au /* "zcc1" on the wire */

#define ZC_MAX_BATCH 1024u                     /* pages, objects or pools in a request */
#define ZC_MAX_PAYLOAD (2u * 1024 * 1024)      /* bytes in a request or an answer */
#define ZC_MAX_OUTSTANDING (16u * 1024 * 1024) /* bytes of all requests and answers in work */
#define ZC_MAX_SEGMENT (64u * 1024 * 1024)     /* bytes */
#define ZC_MAX_DICTIONARY (1024u * 1024)       /* bytes */
#define ZC_MAX_EVENTS 8192u                    /* of a recording, in an answer */
#define ZC_EVENT_BYTES 32u
#define ZC_MAX_CONNECTIONS 64u    /* each of data and control */
#define ZC_REQUEST_SECONDS 5      /* a started request must end by then … */
#define ZC_REQUEST_RATE 4096u     /* … and a second more for so many bytes of payload */
#define ZC_ANSWER_SECONDS 30      /* a peer must have taken an answer by then */
#define ZC_CONTROL_LINE_MAX 4096u /* bytes, newline included */

enum zc_op {
    ZC_OP_HELLO = 1,   /* answer: zc_hello */
    ZC_OP_POOL = 2,    /* payload: a pool's name. Answer: zc_wire_pool */
    ZC_OP_SEGMENT = 3, /* a descriptor rides on the header (SCM_RIGHTS); object = its length.
                          Sealed F_SEAL_SHRINK|F_SEAL_GROW or EPERM. Replaces an earlier one */
    ZC_OP_PUT = 4,
    ZC_OP_GET = 5,
    ZC_OP_FLUSH_PAGE = 6,
    ZC_OP_FLUSH_OBJECT = 7, /* keys: index is ignored; without ZC_F_KEYS count must be 1 */
    ZC_OP_DESTROY_POOL = 8, /* keys: only pool counts; without ZC_F_KEYS count must be 1 */
    ZC_OP_DICTIONARY = 9,   /* payload: a dictionary's bytes. Answer: zc_wire_dictionary */
    ZC_OP_RECORD = 10, /* payload: zc_wire_record, then text, each part ended by NUL: a pool's name,
                          codecs as SPEC or SPEC*PAGES. From now on the pool is recorded, until
                          this connection ends. Answer: zc_wire_recording.
                          Without payload: what came since. Answer: zc_wire_recorded, then
                          `count` events of 32 bytes, see docs/simulate.md */
};

#define ZC_F_KEYS 1u
#define ZC_F_SEGMENT 2u
#define ZC_F_PEEK 4u     /* get: read without consuming */
#define ZC_F_INACTIVE 8u /* put: the pages were not in use lately */

struct zc_request {
    uint32_t magic;    /*  0 */
    uint16_t version;  /*  4: ZC_ABI */
    uint16_t op;       /*  6 */
    uint64_t id;       /*  8: any; comes back in the answer */
    uint32_t pool;     /* 16 */
    uint32_t index;    /* 20 */
    uint64_t object;   /* 24 */
    uint32_t count;    /* 32: entries, 1..ZC_MAX_BATCH; 0 for hello, pool, segment, dictionary */
    uint32_t flags;    /* 36 */
    uint32_t payload;  /* 40: bytes that follow */
    uint32_t reserved; /* 44: 0 */
};

struct zc_answer {
    uint32_t magic;    /*  0 */
    uint16_t version;  /*  4 */
    uint16_t op;       /*  6: as in the request */
    uint64_t id;       /*  8 */
    int32_t status;    /* 16: 0, or a negative errno (Linux's generic numbers) */
    uint32_t count;    /* 20: results */
    uint64_t time_ns;  /* 24: what the daemon spent in the store, without the socket */
    uint32_t payload;  /* 32 */
    uint32_t reserved; /* 36: 0 */
};

struct zc_wire_key {
    uint64_t object; /*  0 */
    uint32_t index;  /*  8 */
    uint32_t pool;   /* 12 */
};

struct zc_result {
    int32_t status;  /* 0: done; > 0: enum zc_refusal; < 0: errno */
    uint32_t detail; /* put: stored size in bytes; flush object, destroy pool: pages forgotten */
};

struct zc_hello {
    uint32_t abi;         /*  0 */
    uint32_t page_size;   /*  4 */
    uint32_t max_batch;   /*  8 */
    uint32_t max_payload; /* 12 */
    char version[32];     /* 16: NUL-padded */
};

struct zc_wire_pool {
    uint32_t pool; /*  0: id */
    uint32_t kind; /*  4: enum zc_pool_kind */
};

struct zc_wire_record {
    uint32_t every;    /*  0: of so many pages that are put one is tried by each codec */
    uint32_t reserved; /*  4: 0 */
};

struct zc_wire_recording {
    uint32_t event_bytes; /*  0: of one */
    uint32_t events;      /*  4: that wait to be asked for, at most; more are lost */
};

struct zc_wire_recorded {
    uint64_t time_us; /*  0: since the recording began */
    uint64_t lost;    /*  8: events, since then */
};

struct zc_wire_dictionary {
    uint32_t id;       /*  0: what codecs name it by, dict=ID */
    uint32_t reserved; /*  4: 0 */
};

#endif
