/* The process of an image as the host describes it: what runs, as whom, with what around it. */
#ifndef SERVICE_H
#define SERVICE_H

#include <stddef.h>
#include <sys/types.h>

struct service {
  /* end with NULL; point into `text` */
  char **argv, **environment;
  size_t count, variables;
  char *user, *directory, *restart;
  int stop_signal;
  /* ms it gets to end when it is asked to */
  int grace_ms;
  char *text;
};

/* @returns 0 when there is none to run: no description, or one without a command */
int read_service(struct service *);
/* In the child: becomes the user and the program. Returns what did not work, with errno. */
const char *run_service(const struct service *, int output);
/* The same for a program that has it as its own: an init of the image that begins units. */
int exec_service(void);
/* As process 1, or beside an init of the image that knows nothing of it. Does not return. */
_Noreturn void supervise(void);

#endif
