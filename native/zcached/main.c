/* SPDX-License-Identifier: Apache-2.0 */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <zcache/proto.h>
#include <zcache/store.h>

#include "zcached/commands.h"

#define PAGES_MAX 262144u /* of a bench */
#define SECONDS_MAX 3600u

static const char usage[] =
    "usage: zcached run --dir DIR [--page-size N] [--limit BYTES] [--abstract] [--detach]\n"
    "       zcached bridge control|data --dir DIR\n"
    "       zcached replay --dir DIR --pool NAME --pid N [--keep]\n"
    "       zcached bench [--pid N | --file FILE] [--pages N] [--page-size N] [--codec SPEC]...\n"
    "                     [--seconds S]\n"
    "       zcached probe\n"
    "       zcached version | --version | --help\n"
    "\n"
    "run      keep pages compressed, and serve them on two sockets until SIGTERM\n"
    "bridge   join standard input and output to one of the sockets\n"
    "replay   put a process's resident anonymous pages into a pool, get and compare them,\n"
    "         print progress and a report as JSON lines\n"
    "bench    put real pages into memory and get them, by one codec after another; print ratio "
    "and\n"
    "         times as JSON\n"
    "probe    facts of this device that only a system call tells\n"
    "\n"
    "--dir DIR       run directory: lock, state, sockets, log\n"
    "--page-size N   bytes, the OS page size times a power of two\n"
    "--limit BYTES   memory to use at most: bytes, 64M or 25%\n"
    "--abstract      abstract sockets instead of files, where files are refused (Android's shell)\n"
    "--detach        go into the background, print `ready pid=… version=…` once it answers\n"
    "--keep          leave the replayed pages in the pool\n"
    "--pid N         pages of that process; bench without it and --file: of what this user's\n"
    "                processes hold, and of the largest shared libraries\n"
    "--pages N       measure on so many pages at most: 2000\n"
    "--codec SPEC    NAME[:LEVEL], lz4, zstd:3 ...; again for each; else a choice of them\n"
    "--seconds S     for all codecs together, about: 10\n"
    "\n"
    "exit codes: 0 ok, 1 failed, 2 usage, 3 no such process, 4 no daemon, 5 refused\n";

static const char *target(void)
{
#if defined(__aarch64__)
    return "arm64-v8a";
#elif defined(__arm__)
    return "armeabi-v7a";
#elif defined(__x86_64__)
    return "x86_64";
#else
    return "host";
#endif
}

static int version(void)
{
    printf("zcached %s abi %u page_size %ld %s\n", zc_version_text(), ZC_ABI, sysconf(_SC_PAGESIZE),
           target());
    return ZC_EXIT_OK;
}

static int misuse(const char *what, const char *value)
{
    fprintf(stderr, "zcached: %s%s; see zcached --help\n", what, value);
    return ZC_EXIT_USAGE;
}

/* A whole number from 1 to `most`; 0: none. */
static unsigned long number(const char *text, unsigned long most)
{
    char *end;
    unsigned long value = strtoul(text, &end, 10);

    return *text >= '0' && *text <= '9' && !*end && value <= most ? value : 0;
}

/* Negative: all well; else the exit code. */
static int parse(int argc, char **argv, struct zc_options *options)
{
    static const struct option known[] = {
        {"dir", required_argument, NULL, 'd'},
        {"page-size", required_argument, NULL, 's'},
        {"limit", required_argument, NULL, 'l'},
        {"pool", required_argument, NULL, 'p'},
        {"pid", required_argument, NULL, 'i'},
        {"abstract", no_argument, NULL, 'a'},
        {"detach", no_argument, NULL, 'D'},
        {"keep", no_argument, NULL, 'k'},
        {"file", required_argument, NULL, 'f'},
        {"pages", required_argument, NULL, 'n'},
        {"codec", required_argument, NULL, 'c'},
        {"seconds", required_argument, NULL, 't'},
        {0},
    };
    int c;

    opterr = 0;
    while ((c = getopt_long(argc, argv, ":", known, NULL)) != -1) {
        switch (c) {
        case 'd':
            options->dir = optarg;
            break;
        case 's':
            options->page_size = (unsigned)number(optarg, ZC_PAGE_SIZE_MAX);
            if (!options->page_size)
                return misuse("--page-size: not a size: ", optarg);
            break;
        case 'l':
            options->limit = optarg;
            break;
        case 'p':
            options->pool = optarg;
            break;
        case 'i':
            options->pid = (int)number(optarg, 0x7fffffff);
            if (!options->pid)
                return misuse("--pid: not a process id: ", optarg);
            break;
        case 'a':
            options->abstract = true;
            break;
        case 'D':
            options->detach = true;
            break;
        case 'k':
            options->keep = true;
            break;
        case 'f':
            options->file = optarg;
            break;
        case 'n':
            options->pages = (unsigned)number(optarg, PAGES_MAX);
            if (!options->pages)
                return misuse("--pages: not 1 to 262144: ", optarg);
            break;
        case 'c':
            if (options->codec_count == ZC_BENCH_CODECS)
                return misuse("--codec: too many, the last is ", optarg);
            options->codecs[options->codec_count++] = optarg;
            break;
        case 't':
            options->seconds = (unsigned)number(optarg, SECONDS_MAX);
            if (!options->seconds)
                return misuse("--seconds: not 1 to 3600: ", optarg);
            break;
        default:
            return misuse(c == ':' ? "no value for " : "unknown option ", argv[optind - 1]);
        }
    }
    return -1;
}

/* The command with its operands checked. */
static int dispatch(const char *command, int operands, char **operand,
                    const struct zc_options *options)
{
    bool bridge = strcmp(command, "bridge") == 0, run = strcmp(command, "run") == 0;
    bool replay = strcmp(command, "replay") == 0, bench = strcmp(command, "bench") == 0;

    if (!bridge && !run && !replay && !bench)
        return misuse("unknown command ", command);
    if (operands != bridge)
        return bridge ? misuse("bridge takes one plane: control or data", "")
                      : misuse("too many arguments: ", operand[0]);
    if (bench && options->pid && options->file)
        return misuse("bench takes --pid or --file, not both", "");
    if (bench)
        return zc_bench(options);
    if (!options->dir || !*options->dir)
        return misuse("--dir is needed for ", command);
    if (run)
        return zc_run(options);
    if (bridge) {
        if (strcmp(operand[0], "control") != 0 && strcmp(operand[0], "data") != 0)
            return misuse("not control or data: ", operand[0]);
        return zc_bridge(options, operand[0]);
    }
    if (!options->pool || !options->pid)
        return misuse("--pool and --pid are needed for ", command);
    return zc_replay(options);
}

int main(int argc, char **argv)
{
    struct zc_options options = {0};
    const char *command = argc > 1 ? argv[1] : "";

    if (strcmp(command, "--version") == 0 || strcmp(command, "version") == 0)
        return version();
    if (strcmp(command, "--help") == 0 || strcmp(command, "help") == 0) {
        fputs(usage, stdout);
        return ZC_EXIT_OK;
    }
    if (!*command || *command == '-')
        return misuse("a command is needed", "");
    if (strcmp(command, "probe") == 0)
        return zc_probe();

    int code = parse(argc - 1, argv + 1, &options);
    if (code >= 0)
        return code;
    return dispatch(command, argc - 1 - optind, argv + 1 + optind, &options);
}
