/* The process of an image as the host describes it: what runs, as whom, with what around it. */
#ifndef SERVICE_H
#define SERVICE_H

#include <stddef.h>
#include <sys/types.h>

#ifndef CONSOLE
#define CONSOLE "/dev/console"
#endif

struct service {
  /* end with NULL; point into `text` */
  char **argv, **environment;
  size_t count, variables;
  char *user, *directory, *restart;
  int stop_signal;
  /* ms it gets to end when it is asked to */
  int grace_ms;
  /* what is asked whether it is well, ends with NULL; none when `checks` is 0 */
  char **check;
  size_t checks;
  int check_interval_ms, check_timeout_ms, check_start_ms, check_start_interval_ms, check_retries;
  char *text;
};

/* @returns 0 when there is none to run: no description, or one without a command */
int read_service(struct service *);
/* In the child: becomes the user and the program. Returns what did not work, with errno. */
const char *run_service(const struct service *, int output);
/* The same for a program that has it as its own: an init of the image that begins units. */
int exec_service(void);
/* Asks whether the process is well, as its image says, until it is told to end. */
_Noreturn void watch_health(void);
/* As process 1, or beside an init of the image that knows nothing of it. Does not return. */
_Noreturn void supervise(void);

#endif
