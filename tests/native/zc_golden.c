/* SPDX-License-Identifier: Apache-2.0 */
/* Prints the requests of tests/golden/requests.txt, made of the C structures: "NAME HEX" a line. */
#include <stdio.h>
#include <string.h>

#include <zcache/proto.h>

#include "store/store.h"

static void print_hex(const void *data, size_t size)
{
    const unsigned char *bytes = data;

    for (size_t i = 0; i < size; i++)
        printf("%02x", bytes[i]);
}

static void print_request(const char *name, struct zc_request request, const void *payload,
                          size_t size)
{
    request.magic = ZC_MAGIC;
    request.version = ZC_ABI;
    request.payload = (uint32_t)size;
    printf("%s ", name);
    print_hex(&request, sizeof(request));
    print_hex(payload, size);
    printf("\n");
}

/* Those of tests/golden/events.txt. */
static int print_events(void)
{
    static const struct zc_event events[] = {
        {0x1122334455667788, 0x99aabbcc, 1234, 1000000, 5600, 4500, ZC_EVENT_PUT, ZC_STORED, 1, 0},
        {9, 7, 3900, 1000001, 5000, 4400, ZC_EVENT_PUT, ZC_COMPRESS_POOR, 0, ZC_EVENT_INACTIVE},
        {9, 8, 0, 1000002, 1800, 0, ZC_EVENT_GET, 0, 1, ZC_EVENT_PEEK},
        {9, 8, 1, 1000003, 700, 0, ZC_EVENT_FLUSH, 0, 0, 0},
        {9, 0, 12, 1000004, 9000, 0, ZC_EVENT_FLUSH_OBJECT, 0, 0, 0},
        {5, 6, 2000, 0, 0, 3600, ZC_EVENT_HELD, 0, 1, 0},
        {9, 4, 2900, 1000005, 30000, 150000, ZC_EVENT_TRIED, 0, 3, 0},
    };

    for (size_t i = 0; i < sizeof(events) / sizeof(events[0]); i++) {
        print_hex(&events[i], sizeof(events[i]));
        printf("\n");
    }
    return 0;
}

int main(int argc, char **argv)
{
    static const char record[] = "\x40\0\0\0\0\0\0\0golden\0lz4\0zstd:9*4";

    struct zc_wire_key keys[2] = {{.object = 0x1122334455667788, .index = 0x99aabbcc, .pool = 1},
                                  {.object = 5, .index = 6, .pool = 2}};
    uint64_t offsets[2] = {0, 4096};
    char page[4096];

    if (argc == 2 && strcmp(argv[1], "events") == 0)
        return print_events();
    memset(page, 0xab, sizeof(page));
    print_request("hello", (struct zc_request){.op = ZC_OP_HELLO, .id = 1}, NULL, 0);
    print_request("pool", (struct zc_request){.op = ZC_OP_POOL, .id = 2}, "golden", 6);
    print_request("segment", (struct zc_request){.op = ZC_OP_SEGMENT, .id = 3, .object = 8192},
                  NULL, 0);
    print_request("put-inline",
                  (struct zc_request){
                      .op = ZC_OP_PUT, .id = 4, .pool = 1, .object = 9, .index = 7, .count = 1},
                  page, sizeof(page));
    print_request("put-segment",
                  (struct zc_request){.op = ZC_OP_PUT,
                                      .id = 5,
                                      .pool = 1,
                                      .object = 9,
                                      .index = 8,
                                      .count = 2,
                                      .flags = ZC_F_SEGMENT},
                  offsets, sizeof(offsets));
    print_request("put-inactive",
                  (struct zc_request){.op = ZC_OP_PUT,
                                      .id = 6,
                                      .pool = 1,
                                      .object = 9,
                                      .index = 8,
                                      .count = 1,
                                      .flags = ZC_F_SEGMENT | ZC_F_INACTIVE},
                  offsets, sizeof(offsets[0]));
    print_request("get-peek",
                  (struct zc_request){.op = ZC_OP_GET,
                                      .id = 7,
                                      .pool = 1,
                                      .object = 9,
                                      .index = 7,
                                      .count = 1,
                                      .flags = ZC_F_PEEK},
                  NULL, 0);
    print_request("get-segment",
                  (struct zc_request){.op = ZC_OP_GET,
                                      .id = 8,
                                      .pool = 1,
                                      .object = 9,
                                      .index = 7,
                                      .count = 2,
                                      .flags = ZC_F_SEGMENT},
                  offsets, sizeof(offsets));
    print_request("record", (struct zc_request){.op = ZC_OP_RECORD, .id = 9}, record,
                  sizeof(record));
    print_request(
        "flush-page",
        (struct zc_request){.op = ZC_OP_FLUSH_PAGE, .id = 10, .count = 2, .flags = ZC_F_KEYS}, keys,
        sizeof(keys));
    print_request(
        "flush-object",
        (struct zc_request){.op = ZC_OP_FLUSH_OBJECT, .id = 11, .pool = 1, .object = 9, .count = 1},
        NULL, 0);
    print_request("destroy-pool",
                  (struct zc_request){.op = ZC_OP_DESTROY_POOL, .id = 12, .pool = 1, .count = 1},
                  NULL, 0);
    print_request("dictionary", (struct zc_request){.op = ZC_OP_DICTIONARY, .id = 13},
                  "a dictionary", 12);
    return 0;
}
