/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Timings, as one JSON object on standard output. FILE is raw pages.
 *
 *   zc_bench inproc FILE    the codec alone and the store
 *   zc_bench socket FILE    the codec alone and a daemon's pool; --dir --pool
 *   zc_bench scale FILE     a store of few pages and one of many; --few --many
 *   zc_bench used FILE      used_bytes against the OS's count
 *   zc_bench zram FILE      a zram device and the store; --device --only-device
 *   zc_bench threads FILE   one thread and two
 *   zc_bench compact FILE   what compaction frees, and how long others wait for it; --many
 *   zc_bench sizes FILE     how large zpages are, how many frames they fill
 *   zc_bench reclaim FILE   what is lost with the coldest frames
 *   zc_bench entropy FILE   which pages the entropy gate gets wrong
 *   zc_bench backing FILE   a backing store and fio on the same file, which is made: --device
 *   zc_bench cold FILE      what has gone cold: memory and gets, by length of extents and level
 *   zc_bench heap FILE      the compressed heap, and swap on a zram device: --device
 *   zc_bench record FILE    what a recording adds to a put, by what it tries
 *   zc_bench codecs         those of this build
 *
 * Each takes --page-size --rounds --most --allocator --codec --checksums. Times are nanoseconds a
 * page, one number a round. The codec alone is the store's own, state reused, into memory that is
 * resident before.
 */
#include <getopt.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench.h"

static const struct {
    const char *name;
    void (*measure)(const struct options *options);
} commands[] = {
    {"inproc", inproc},   {"socket", over_socket}, {"scale", scale},     {"used", used},
    {"zram", zram},       {"threads", threads},    {"compact", compact}, {"sizes", sizes},
    {"reclaim", reclaim}, {"entropy", entropy},    {"backing", backing}, {"cold", cold},
    {"heap", heap},       {"record", record},      {"codecs", codecs},
};

static const struct option flags[] = {
    {"page-size", required_argument, NULL, 's'},
    {"rounds", required_argument, NULL, 'r'},
    {"most", required_argument, NULL, 'm'},
    {"allocator", required_argument, NULL, 'a'},
    {"codec", required_argument, NULL, 'c'},
    {"checksums", required_argument, NULL, 'k'},
    {"device", required_argument, NULL, 'd'},
    {"dir", required_argument, NULL, 'D'},
    {"pool", required_argument, NULL, 'p'},
    {"few", required_argument, NULL, 'f'},
    {"many", required_argument, NULL, 'M'},
    {"only-device", no_argument, NULL, 'o'},
    {0},
};

static _Noreturn void usage(const char *value)
{
    die("zc_bench COMMAND FILE [OPTION…]; commands and options are in bench/native/main.c", value);
}

static uint64_t number(const char *text)
{
    char *end;
    uint64_t value = strtoull(text, &end, 10);

    if (end == text || *end)
        usage(text);
    return value;
}

static void set(struct options *options, int flag, const char *value)
{
    switch (flag) {
    case 's':
        options->page_size = (size_t)number(value);
        break;
    case 'r':
        options->rounds = (size_t)number(value);
        break;
    case 'm':
        options->most = (size_t)number(value);
        break;
    case 'a':
        options->allocator = value;
        break;
    case 'c':
        options->codec = value;
        break;
    case 'k':
        options->checksums = number(value) != 0;
        break;
    case 'd':
        options->device = value;
        break;
    case 'o':
        options->only_device = true;
        break;
    case 'D':
        options->dir = value;
        break;
    case 'p':
        options->pool = value;
        break;
    case 'f':
        options->few = number(value);
        break;
    case 'M':
        options->many = number(value);
        break;
    default:
        usage("option");
    }
}

int main(int argc, char **argv)
{
    struct options options = {.page_size = (size_t)sysconf(_SC_PAGESIZE),
                              .rounds = 25,
                              .most = SIZE_MAX,
                              .allocator = "zbud",
                              .codec = "lz4",
                              .checksums = true,
                              .device = "",
                              .dir = "",
                              .pool = "",
                              .few = 10000,
                              .many = 400000};

    for (int flag; (flag = getopt_long(argc, argv, "", flags, NULL)) != -1;)
        set(&options, flag, optarg);
    if (argc - optind < 1 || argc - optind > 2)
        usage("arguments");
    options.file = optind + 1 < argc ? argv[optind + 1] : "";
    for (size_t i = 0; i < sizeof(commands) / sizeof(*commands); i++) {
        if (strcmp(argv[optind], commands[i].name) == 0) {
            commands[i].measure(&options);
            return 0;
        }
    }
    usage(argv[optind]);
}
