/* SPDX-License-Identifier: Apache-2.0 */
/* Prints the requests of tests/golden/requests.txt, made of the C structures: "NAME HEX" a line. */
#include <stdio.h>
#include <string.h>

#include <zcache/proto.h>

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

int main(void)
{
    struct zc_wire_key keys[2] = {{.object = 0x1122334455667788, .index = 0x99aabbcc, .pool = 1},
                                  {.object = 5, .index = 6, .pool = 2}};
    uint64_t offsets[2] = {0, 4096};
    char page[4096];

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
    print_request(
        "flush-page",
        (struct zc_request){.op = ZC_OP_FLUSH_PAGE, .id = 9, .count = 2, .flags = ZC_F_KEYS}, keys,
        sizeof(keys));
    print_request(
        "flush-object",
        (struct zc_request){.op = ZC_OP_FLUSH_OBJECT, .id = 10, .pool = 1, .object = 9, .count = 1},
        NULL, 0);
    print_request("destroy-pool",
                  (struct zc_request){.op = ZC_OP_DESTROY_POOL, .id = 11, .pool = 1, .count = 1},
                  NULL, 0);
    print_request("dictionary", (struct zc_request){.op = ZC_OP_DICTIONARY, .id = 12},
                  "a dictionary", 12);
    return 0;
}
