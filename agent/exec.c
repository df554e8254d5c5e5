/*
 * Commands the host runs: each is the leader of a session, with pipes or a terminal, and ends with whoever asked for it. What
 * it says goes to the host as far as that takes it; input comes as far as the command takes it.
 */
#include "agent.h"
#include "command.h"
#include "spawn.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#define MAX_SESSIONS 256
#define READ_BYTES (32u << 10)
/* what one that is hung up may still say to nobody: a pipe that breaks at once would end it before it has heard why */
#define FAREWELL_MS 1000
/* small amounts of credit wait for more */
#define CREDIT_BYTES (WINDOW_BYTES / 4)

struct stream {
  int fd;
  struct watch *watch;
};

/* Why a program did not begin. */
struct trouble {
  int number;
  char what[256];
};

struct session {
  struct session *next;
  /* NULL when nobody waits for it any more */
  struct link *link;
  uint32_t channel;
  pid_t pid;
  struct stream in, out, err;
  /* what went wrong before the program began: closed without a word when it did begin */
  struct stream report;
  struct buffer input;
  /* input that the command took and the host was not told of, and bytes of output the host takes */
  uint32_t taken, credit;
  /* when it was hung up, 0 when it was not */
  int64_t abandoned_at;
  int has_terminal, input_ended, begun, plain, exited, gone;
  /* what it said on `report` so far */
  uint8_t said[2 + sizeof(struct trouble)];
  size_t said_length;
};

static struct timer farewell;
static struct session *sessions;
static int session_count;

static void close_stream(struct stream *stream) {
  if (stream->fd < 0) return;
  unwatch(stream->watch);
  close(stream->fd);
  *stream = (struct stream){.fd = -1};
}

/* Frees those that ended; called where nobody looks at them. */
static void sweep(void) {
  for (struct session **at = &sessions; *at;) {
    struct session *session = *at;
    if (session->gone) {
      *at = session->next;
      buffer_clear(&session->input);
      free(session);
      session_count--;
    } else {
      at = &session->next;
    }
  }
}

static void close_all(struct session *session) {
  close_stream(&session->in);
  close_stream(&session->out);
  close_stream(&session->err);
  close_stream(&session->report);
  buffer_clear(&session->input);
}

/* The host is told that this is the end of it, when it is. */
static void settle(struct session *session) {
  if (session->gone || !session->exited) return;
  if (session->link && (session->out.fd >= 0 || session->err.fd >= 0)) return;
  if (session->link) send_frame(session->link, END, session->channel, NULL, 0);
  close_all(session);
  session->gone = 1;
}

static int may_read(const struct session *session) {
  return !session->link || (session->credit > 0 && !link_is_full(session->link));
}

static void want_output(struct session *session) {
  short events = may_read(session) ? POLLIN : 0;
  if (session->out.watch) session->out.watch->events = events;
  if (session->err.watch) session->err.watch->events = events;
}

/* Those that were hung up for long enough are read no more. */
static void end_farewells(void) {
  int more = 0;
  for (struct session *session = sessions; session; session = session->next) {
    if (session->gone || !session->abandoned_at) continue;
    if (now_ms() - session->abandoned_at >= FAREWELL_MS) close_all(session);
    else more = 1;
  }
  if (more) set_timer(&farewell, FAREWELL_MS / 4, end_farewells);
}

/* Whoever asked for it is gone, or wants no more of it. */
static void abandon(struct session *session) {
  session->link = NULL;
  close_stream(&session->in);
  close_stream(&session->report);
  buffer_clear(&session->input);
  if (!session->exited && session->pid > 0) {
    session->abandoned_at = now_ms();
    signal_session(session->pid, SIGHUP);
    want_output(session);
    set_timer(&farewell, FAREWELL_MS / 4, end_farewells);
  }
  settle(session);
}

/* @returns whether there may be more at once */
static int pass_output(struct session *session, struct stream *stream, uint32_t type) {
  static uint8_t bytes[READ_BYTES];
  if (!may_read(session)) {
    want_output(session);
    return 0;
  }
  size_t room = session->link && session->credit < sizeof bytes ? session->credit : sizeof bytes;
  ssize_t length = read(stream->fd, bytes, room);
  if (length > 0 && !session->link) return 1;
  if (length > 0) {
    session->credit -= (uint32_t)length;
    send_frame(session->link, type, session->channel, bytes, (size_t)length);
    want_output(session);
    return session->link != NULL;
  }
  if (length < 0 && (errno == EAGAIN || errno == EINTR)) {
    /* a terminal is kept open by whatever was left in the background; it ends with the command */
    if (session->has_terminal && session->exited) close_stream(stream);
    return 0;
  }
  close_stream(stream);
  return 0;
}

static void out_ready(void *owner, short seen) {
  struct session *session = owner;
  (void)seen;
  pass_output(session, &session->out, STDOUT);
  settle(session);
}

static void err_ready(void *owner, short seen) {
  struct session *session = owner;
  (void)seen;
  pass_output(session, &session->err, STDERR);
  settle(session);
}

static void give_credit(struct session *session, size_t length) {
  session->taken += (uint32_t)length;
  if (session->taken < CREDIT_BYTES || !session->link) return;
  send_frame(session->link, CREDIT, session->channel, &session->taken, 4);
  session->taken = 0;
}

/* No more input: a pipe is closed; a terminal is told by the key that means it. */
static void end_input(struct session *session) {
  if (!session->has_terminal) {
    close_stream(&session->in);
    return;
  }
  struct termios settings;
  if (session->in.fd >= 0 && tcgetattr(session->in.fd, &settings) == 0 && settings.c_lflag & ICANON) {
    ssize_t written = write(session->in.fd, &settings.c_cc[VEOF], 1);
    (void)written;
  }
  session->input_ended = 0;
}

static void write_input(struct session *session) {
  while (buffer_length(&session->input) > 0 && session->in.fd >= 0) {
    ssize_t length = write(session->in.fd, buffer_start(&session->input), buffer_length(&session->input));
    if (length < 0 && errno == EINTR) continue;
    if (length < 0 && errno == EAGAIN) break;
    if (length < 0) {
      close_stream(&session->in);
      break;
    }
    buffer_take(&session->input, (size_t)length);
    give_credit(session, (size_t)length);
  }
  if (session->in.fd < 0) {
    /* it takes none any more: what still comes is nobody's */
    size_t left = buffer_length(&session->input);
    buffer_clear(&session->input);
    if (left > 0) give_credit(session, left);
    return;
  }
  if (buffer_length(&session->input) == 0 && session->input_ended) end_input(session);
  if (session->in.watch) session->in.watch->events = buffer_length(&session->input) > 0 ? POLLOUT : 0;
}

static void in_ready(void *owner, short seen) {
  (void)seen;
  write_input(owner);
}

/* How it begins, each in a byte, and then what went wrong, if anything. */
static void report_ready(void *owner, short seen) {
  struct session *session = owner;
  struct trouble trouble;
  (void)seen;
  size_t room = sizeof session->said - session->said_length;
  ssize_t length = read(session->report.fd, session->said + session->said_length, room);
  if (length < 0 && (errno == EINTR || errno == EAGAIN)) return;
  if (length > 0) {
    session->said_length += (size_t)length;
    if ((size_t)length < room) {
      report_ready(session, seen);
      return;
    }
  }
  close_stream(&session->report);
  size_t ways = session->said_length % sizeof trouble;
  session->plain = ways == 1 && session->said[0] == BEGINS_PLAIN;
  if (session->said_length >= sizeof trouble) {
    memcpy(&trouble, session->said + ways, sizeof trouble);
    trouble.what[sizeof trouble.what - 1] = 0;
    send_failure(session->link, session->channel, "%s: %s", trouble.what, strerror(trouble.number));
    session->link = NULL;
    close_all(session);
    settle(session);
    return;
  }
  session->begun = 1;
}

/* What a child has: its ends of pipes or of a terminal. */
struct ends {
  int in, out, err, report;
  char terminal[64];
};

static _Noreturn void begin_child(struct command *command, const struct ends *ends) {
  struct trouble trouble = {0};
  int in = ends->in, out = ends->out, err = ends->err;
  become_program();
  setsid();
  if (command->has_terminal) {
    in = out = err = open(ends->terminal, O_RDWR);
    if (in >= 0) {
      ioctl(in, TIOCSCTTY, 0);
      if (fchown(in, command->uid, (gid_t)-1) != 0) trouble.number = 0; /* it is root's then */
    }
  }
  const char *what = "its terminal";
  if (in >= 0 && dup2(in, 0) >= 0 && dup2(out, 1) >= 0 && dup2(err, 2) >= 0) {
    if (in > 2) close(in);
    what = run_command(command, ends->report);
  }
  trouble.number = errno;
  snprintf(trouble.what, sizeof trouble.what, "%s", what);
  ssize_t written = write(ends->report, &trouble, sizeof trouble);
  _exit(written < 0 ? 126 : 127);
}

static int open_pipes(struct session *session, struct ends *ends) {
  int in[2] = {-1, -1}, out[2] = {-1, -1}, err[2] = {-1, -1};
  int made = pipe2(in, O_CLOEXEC) == 0 && pipe2(out, O_CLOEXEC) == 0 && pipe2(err, O_CLOEXEC) == 0;
  ends->in = in[0];
  ends->out = out[1];
  ends->err = err[1];
  session->in.fd = in[1];
  session->out.fd = out[0];
  session->err.fd = err[0];
  return made ? 0 : -1;
}

static int open_terminal(struct session *session, struct ends *ends, const struct winsize *size) {
  int master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
  if (master < 0) return -1;
  session->out.fd = master;
  if (grantpt(master) != 0 || unlockpt(master) != 0) return -1;
  if (ptsname_r(master, ends->terminal, sizeof ends->terminal) != 0) return -1;
  ioctl(master, TIOCSWINSZ, size);
  session->in.fd = fcntl(master, F_DUPFD_CLOEXEC, 3);
  return session->in.fd < 0 ? -1 : 0;
}

static void close_ends(const struct ends *ends) {
  const int all[] = {ends->in, ends->out, ends->err, ends->report};
  for (int at = 0; at < 4; at++)
    if (all[at] >= 0) close(all[at]);
}

static void follow(struct session *session, struct stream *stream, short events, void (*on)(void *, short)) {
  if (stream->fd < 0) return;
  fcntl(stream->fd, F_SETFL, fcntl(stream->fd, F_GETFL) | O_NONBLOCK);
  stream->watch = watch(stream->fd, events, on, session);
}

static int begin_session(struct session *session, struct command *command) {
  struct ends ends = {.in = -1, .out = -1, .err = -1, .report = -1};
  int report[2];
  session->has_terminal = command->has_terminal;
  if (pipe2(report, O_CLOEXEC) != 0) return -1;
  session->report.fd = report[0];
  ends.report = report[1];
  int ready = command->has_terminal ? open_terminal(session, &ends, &command->size) : open_pipes(session, &ends);
  if (ready == 0) {
    session->pid = fork_command();
    if (session->pid == 0) begin_child(command, &ends);
  }
  int failed = errno;
  close_ends(&ends);
  errno = failed;
  if (ready != 0 || session->pid < 0) return -1;
  follow(session, &session->in, 0, in_ready);
  follow(session, &session->out, POLLIN, out_ready);
  follow(session, &session->err, POLLIN, err_ready);
  follow(session, &session->report, POLLIN, report_ready);
  return 0;
}

static struct session *find_session(const struct link *link, uint32_t channel) {
  for (struct session *session = sessions; session; session = session->next)
    if (!session->gone && session->link == link && session->channel == channel) return session;
  return NULL;
}

void exec_command(struct link *link, uint32_t channel, const uint8_t *payload, size_t length) {
  struct command command = {0};
  sweep();
  const char *wrong = find_session(link, channel)     ? "its channel is in use"
                      : session_count == MAX_SESSIONS ? "too many commands run already"
                                                      : read_command(&command, payload, length);
  if (wrong) {
    send_failure(link, channel, "the command cannot be run: %s", wrong);
    free_command(&command);
    return;
  }
  struct session *session = calloc(1, sizeof *session);
  if (!session) die("memory");
  session->link = link;
  session->channel = channel;
  session->credit = WINDOW_BYTES;
  session->in.fd = session->out.fd = session->err.fd = session->report.fd = -1;
  session->next = sessions;
  sessions = session;
  session_count++;
  if (begin_session(session, &command) == 0) {
    struct buffer fields = {0};
    add_number(&fields, F_PID, (uint32_t)session->pid);
    send_fields(link, DONE, channel, &fields);
    buffer_clear(&fields);
  } else {
    send_failure(link, channel, "the command cannot be run: %s", strerror(errno));
    close_all(session);
    session->gone = 1;
  }
  free_command(&command);
}

static void take_input(struct session *session, const uint8_t *bytes, size_t length) {
  if (buffer_length(&session->input) + length > WINDOW_BYTES) {
    /* more than it was allowed: this is no host of ours */
    close_link(session->link);
    return;
  }
  if (session->in.fd < 0 || session->input_ended) {
    give_credit(session, length);
    return;
  }
  buffer_append(&session->input, bytes, length);
  write_input(session);
}

static void resize(struct session *session, const uint8_t *payload, size_t length) {
  uint32_t size[2];
  if (!session->has_terminal || session->out.fd < 0 || length != sizeof size) return;
  memcpy(size, payload, sizeof size);
  struct winsize window = {.ws_row = (unsigned short)size[0], .ws_col = (unsigned short)size[1]};
  ioctl(session->out.fd, TIOCSWINSZ, &window);
}

int exec_frame(struct link *link, const struct header *header, const uint8_t *payload) {
  struct session *session = find_session(link, header->channel);
  uint32_t number = 0;
  if (!session) return 0;
  if (header->length == 4) memcpy(&number, payload, 4);
  switch (header->type) {
  case STDIN:
    take_input(session, payload, header->length);
    break;
  case STDIN_END:
    session->input_ended = 1;
    write_input(session);
    break;
  case CREDIT:
    session->credit = number > UINT32_MAX - session->credit ? UINT32_MAX : session->credit + number;
    want_output(session);
    break;
  case RESIZE:
    resize(session, payload, header->length);
    break;
  case SIGNAL:
    if (number > 0 && number < 65 && !session->exited) signal_session(session->pid, (int)number);
    break;
  case CLOSE:
    abandon(session);
    break;
  }
  return 1;
}

void forget_sessions(struct link *link) {
  for (struct session *session = sessions; session; session = session->next)
    if (!session->gone && session->link == link) abandon(session);
}

void resume_sessions(struct link *link) {
  for (struct session *session = sessions; session; session = session->next)
    if (!session->gone && session->link == link) want_output(session);
}

int session_child(pid_t pid, int status) {
  for (struct session *session = sessions; session; session = session->next) {
    if (session->gone || session->exited || session->pid != pid) continue;
    /* one that could not begin said so before it ended */
    if (session->report.fd >= 0) report_ready(session, POLLIN);
    session->exited = 1;
    if (session->link) {
      struct buffer fields = {0};
      if (WIFSIGNALED(status)) add_number(&fields, F_SIGNAL, (uint32_t)WTERMSIG(status));
      else add_number(&fields, F_CODE, (uint32_t)WEXITSTATUS(status));
      if (session->plain) add_number(&fields, F_PLAIN, 1);
      if (session->begun) {
        while (session->has_terminal && session->out.fd >= 0 && pass_output(session, &session->out, STDOUT)) continue;
        send_fields(session->link, EXIT, session->channel, &fields);
      }
      buffer_clear(&fields);
    }
    settle(session);
    return 1;
  }
  return 0;
}
