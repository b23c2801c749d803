/* SPDX-License-Identifier: Apache-2.0 */
/* zcached apply. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "zcached/apply/apply.h"
#include "zcached/commands.h"

#define PLAN_MAX (256u * 1024) /* bytes */

static void print_line(void *arg, const char *line)
{
    (void)arg;
    dprintf(STDOUT_FILENO, "%s\n", line); /* nobody may listen any more */
}

static int exit_code(enum zc_applied outcome)
{
    return outcome == ZC_APPLIED ? ZC_EXIT_OK
           : outcome == ZC_STUCK ? ZC_EXIT_FAILED
                                 : ZC_EXIT_REFUSED;
}

static bool is_ended(const struct zc_text *text)
{
    return text->len >= 5 && strcmp(text->data + text->len - 5, "\nend\n") == 0;
}

/* Up to its line `end`: a connection that carries it may stay open, or break. */
static bool read_plan(struct zc_text *text)
{
    char part[4096];
    ssize_t len;

    while (!is_ended(text) && text->len < PLAN_MAX &&
           (len = read(STDIN_FILENO, part, sizeof(part))) > 0)
        zc_text_append(text, part, (size_t)len);
    return !text->error && is_ended(text);
}

static int work(const struct zc_options *options, const char *plan)
{
    struct zc_apply apply = {
        .system = {.calls = &zc_system_calls, .root = ""},
        .path = options->dir,
        .dir = open(options->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC),
        .say = print_line,
    };

    if (apply.dir < 0) {
        fprintf(stderr, "zcached: %s: %s\n", options->dir, strerror(errno));
        return ZC_EXIT_FAILED;
    }
    int code = ZC_EXIT_OK;
    if (!options->recover)
        code = exit_code(zc_apply_plan(&apply, plan));
    else if (zc_apply_has_journal(&apply))
        code = zc_apply_recover(&apply) == ZC_STUCK ? ZC_EXIT_FAILED : ZC_EXIT_OK;
    close(apply.dir);
    return code;
}

/* What the child says, to who started us. */
static void relay(int from)
{
    char part[4096];
    ssize_t len;

    while ((len = read(from, part, sizeof(part))) > 0)
        if (write(STDOUT_FILENO, part, (size_t)len) < 0)
            return;
}

/* The child's part: nothing of who started us is kept open, and its end is none of ours. */
static int work_detached(const struct zc_options *options, const char *plan, int out)
{
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);

    setsid();
    dup2(out, STDOUT_FILENO);
    dup2(null, STDIN_FILENO);
    dup2(null, STDERR_FILENO);
    close(out);
    return work(options, plan);
}

static int detach(const struct zc_options *options, const char *plan)
{
    int ends[2];

    if (pipe2(ends, O_CLOEXEC) != 0)
        return ZC_EXIT_FAILED;
    pid_t pid = fork();
    if (pid == 0) {
        close(ends[0]);
        return work_detached(options, plan, ends[1]);
    }
    close(ends[1]);
    if (pid > 0)
        relay(ends[0]);
    close(ends[0]);
    return pid < 0 ? ZC_EXIT_FAILED : ZC_EXIT_OK; /* its last line says what it came to */
}

int zc_apply(const struct zc_options *options)
{
    struct zc_text plan = {0};
    int code;

    signal(SIGPIPE, SIG_IGN);
    signal(SIGHUP, SIG_IGN);
    if (!options->recover && !read_plan(&plan)) {
        puts("refused: the plan did not arrive as a whole");
        code = ZC_EXIT_REFUSED;
    } else
        code = options->detach ? detach(options, plan.data) : work(options, plan.data);
    zc_text_free(&plan);
    return code;
}
