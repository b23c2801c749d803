/* SPDX-License-Identifier: Apache-2.0 */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <zcache/proto.h>
#include <zcache/store.h>

#include "zcached/commands.h"
#include "zcached/relro.h"

#define PAGES_MAX 262144u /* of a bench or sample */
#define SECONDS_MAX 3600u

static const char usage[] =
    "usage: zcached run --dir DIR [--page-size N] [--limit BYTES] [--abstract] [--detach]\n"
    "       zcached bridge control|data --dir DIR\n"
    "       zcached replay --dir DIR --pool NAME --pid N [--keep]\n"
    "       zcached bench [--pid N | --file FILE] [--pages N] [--page-size N] [--codec SPEC]...\n"
    "                     [--seconds S]\n"
    "       zcached sample [--pid N]... [--app NAME] [--file FILE] [--files | --swapped] [--cpu "
    "P]\n"
    "                      [--pages N] [--page-size N] [--codec SPEC]... [--seconds S]\n"
    "       zcached apply --dir DIR [--detach] [--recover]\n"
    "       zcached swapoff DEVICE\n"
    "       zcached guard DEVICE KIB [PAGES]\n"
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
    "sample   sizes of a fair sample of the pages of processes by each codec, as JSON\n"
    "apply    change settings of the kernel and the daemon, all or none, by a plan on standard "
    "input;\n"
    "         a journal in DIR survives kill -9, and the next start rolls back or forward\n"
    "guard    what run starts beside itself while it serves a swap device: see docs/swap.md\n"
    "swapoff  have the kernel take back what it swapped out to a device: in a process of its own, "
    "as\n"
    "         the OOM killer takes who is at it first\n"
    "probe    facts of this device that only a system call tells\n"
    "\n"
    "--dir DIR       run directory: lock, state, sockets, log\n"
    "--page-size N   bytes, the OS page size times a power of two\n"
    "--limit BYTES   memory to use at most: bytes, 64M or 25%\n"
    "--abstract      abstract sockets instead of files, where files are refused (Android's shell)\n"
    "--detach        go into the background, print `ready pid=… version=…` once it answers; apply: "
    "go\n"
    "                on when who started it is gone\n"
    "--recover       no plan: only roll back or forward what was cut off\n"
    "--keep          leave the replayed pages in the pool\n"
    "--pid N         pages of that process; bench without it and --file: of what this user's\n"
    "                processes hold, and of the largest shared libraries\n"
    "--app NAME      processes of that name, or that name and a colon\n"
    "--files         mapped pages of files instead of resident anonymous ones\n"
    "--swapped       pages in swap, which this brings back into memory\n"
    "--cpu P         use that share of a processor: 50\n"
    "--pages N       measure on so many pages at most: 2000; sample: 20000, --swapped 1000\n"
    "--codec SPEC    NAME[:LEVEL], lz4, zstd:3 ...; again for each; else a choice of them\n"
    "--seconds S     for all codecs together, about: 10; sample: 20\n"
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
        {"dir", required_argument, NULL, 'd'},   {"page-size", required_argument, NULL, 's'},
        {"limit", required_argument, NULL, 'l'}, {"pool", required_argument, NULL, 'p'},
        {"pid", required_argument, NULL, 'i'},   {"abstract", no_argument, NULL, 'a'},
        {"detach", no_argument, NULL, 'D'},      {"keep", no_argument, NULL, 'k'},
        {"file", required_argument, NULL, 'f'},  {"pages", required_argument, NULL, 'n'},
        {"codec", required_argument, NULL, 'c'}, {"seconds", required_argument, NULL, 't'},
        {"app", required_argument, NULL, 'A'},   {"cpu", required_argument, NULL, 'C'},
        {"files", no_argument, NULL, 'F'},       {"swapped", no_argument, NULL, 'S'},
        {"recover", no_argument, NULL, 'R'},     {0},
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
            if (options->pid_count == ZC_SAMPLE_PIDS)
                return misuse("--pid: too many, the last is ", optarg);
            options->pids[options->pid_count++] = options->pid;
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
        case 'A':
            options->app = optarg;
            break;
        case 'C':
            options->cpu = (unsigned)number(optarg, 100);
            if (!options->cpu)
                return misuse("--cpu: not 1 to 100: ", optarg);
            break;
        case 'F':
            options->files = true;
            break;
        case 'S':
            options->swapped = true;
            break;
        case 'R':
            options->recover = true;
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
    bool sample = strcmp(command, "sample") == 0, apply = strcmp(command, "apply") == 0;

    if (!bridge && !run && !replay && !bench && !sample && !apply)
        return misuse("unknown command ", command);
    if (operands != bridge)
        return bridge ? misuse("bridge takes one plane: control or data", "")
                      : misuse("too many arguments: ", operand[0]);
    if (bench && options->pid && options->file)
        return misuse("bench takes --pid or --file, not both", "");
    if (sample && !!options->pid + !!options->app + !!options->file > 1)
        return misuse("sample takes --pid, --app or --file, not two of them", "");
    if (sample && options->files + options->swapped + !!options->file > 1)
        return misuse("sample takes --files, --swapped or --file, not two of them", "");
    if (sample)
        return zc_sample(options);
    if (bench)
        return zc_bench(options);
    if (!options->dir || !*options->dir)
        return misuse("--dir is needed for ", command);
    if (run)
        return zc_run(options);
    if (apply)
        return zc_apply(options);
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

    zc_relro_protect();
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
    if (strcmp(command, "guard") == 0)
        return argc == 4 || argc == 5
                   ? zc_guard(argv[2], argv[3], argv[4])
                   : misuse("guard takes a device, the kernel's reserve, and what is lost", "");
    if (strcmp(command, "swapoff") == 0)
        return argc == 3 ? zc_swapoff(argv[2]) : misuse("swapoff takes one device", "");

    int code = parse(argc - 1, argv + 1, &options);
    if (code >= 0)
        return code;
    return dispatch(command, argc - 1 - optind, argv + 1 + optind, &options);
}
