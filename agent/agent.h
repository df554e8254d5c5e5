/*
 * The guest's agent of banger: what its parts share. One process, one loop, no threads; everything it is asked comes from the
 * host, which is the only peer it accepts. docs/agent.md has the protocol.
 */
#ifndef AGENT_H
#define AGENT_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* grows when what a host of before sends would be understood in another way */
#define PROTOCOL 1

/* of vsock: below 1024, so that only root can take it when this program is gone */
#define AGENT_PORT 1011

/* what this program keeps for itself in the guest */
#ifndef RUN_DIRECTORY
#define RUN_DIRECTORY "/run/banger"
#endif

/* -- buffer.c: bytes on their way ------------------------------------------------------------------------------ */

struct buffer {
  uint8_t *bytes;
  size_t from, to, room;
};

size_t buffer_length(const struct buffer *);
const uint8_t *buffer_start(const struct buffer *);
void buffer_append(struct buffer *, const void *, size_t);
/* Room for that many bytes behind what is there; buffer_added() says how many were put into it. */
uint8_t *buffer_room(struct buffer *, size_t);
void buffer_added(struct buffer *, size_t);
/* Empty buffers keep no memory. */
void buffer_take(struct buffer *, size_t);
void buffer_clear(struct buffer *);

/* -- loop.c: waiting ------------------------------------------------------------------------------------------- */

/* Something that is waited for; gone with unwatch(), also in the midst of its own call. */
struct watch {
  struct watch *next;
  int fd;
  short events;
  int gone;
  void (*on)(void *owner, short seen);
  void *owner;
};

struct watch *watch(int fd, short events, void (*on)(void *owner, short seen), void *owner);
void unwatch(struct watch *);

/* One moment that is waited for; due 0 = none. Times are those of CLOCK_MONOTONIC in ms. */
struct timer {
  int64_t due;
  void (*on)(void);
};

int64_t now_ms(void);
void set_timer(struct timer *, int64_t after_ms, void (*on)(void));
void stop_timer(struct timer *);
/* Calls it for each child that ended. */
void on_child(void (*)(pid_t, int status));
void run_loop(void);
_Noreturn void die(const char *what);

/* -- frames.c: the protocol's own shape ------------------------------------------------------------------------ */

enum frame_type {
  /* from the host; requests open their channel */
  PING = 1,
  READY,
  QUIESCE,
  THAW,
  WAKE,
  EXEC,
  STDIN,
  STDIN_END,
  /* either way: u32, so many bytes more may be sent on this channel */
  CREDIT,
  RESIZE,
  SIGNAL,
  CLOSE,
  SERVICE,
  /* to the host */
  HELLO = 32,
  DONE,
  FAILED,
  STDOUT,
  STDERR,
  EXIT,
  END
};

enum field_tag {
  F_PROTOCOL = 1, /* u32 */
  F_VERSION,      /* text */
  F_FEATURE,      /* text, repeated */
  F_TOKEN,        /* text */
  F_LIMIT_MS,     /* u32 */
  F_TEXT,         /* text */
  F_COUNT,        /* u32 */
  F_MISSED,       /* u32 */
  F_NAME,         /* text, repeated */
  F_UPTIME_MS,    /* u32 */
  F_STATE,        /* text */
  F_GENERATION,   /* text */
  F_SEED,         /* bytes */
  F_WALL_CLOCK,   /* u64, ns since 1970 */
  F_MODE,         /* text: same, new, again */
  F_DID,          /* text, repeated */
  F_HOSTNAME,     /* text, and so on */
  F_ADDRESS,
  F_GATEWAY,
  F_MTU, /* u32 */
  F_MAC, /* 6 bytes */
  F_MACHINE_ID,
  F_BOOT_ID,
  F_AUTHORIZED_KEY, /* repeated */
  F_FILE,           /* path, NUL, mode in octal, NUL, content; repeated */
  F_ARGUMENT,       /* repeated */
  F_ENVIRONMENT,    /* NAME=VALUE, repeated */
  F_DIRECTORY,
  F_USER,
  F_SCRIPT,
  F_TERMINAL, /* u32 rows, u32 columns */
  F_TERM,
  F_PID,    /* u32 */
  F_CODE,   /* u32 */
  F_SIGNAL, /* u32 */
  F_OLD_ADDRESS,
  F_PLAIN /* of a request two u32, see command.h; of an exit u32 1 when no shell was begun */
};

struct header {
  uint32_t type, channel, length;
};

/* of a frame from the host: a command with its arguments, which the kernel limits to 2 MiB, and its environment */
#define MAX_PAYLOAD_BYTES (4u << 20)
/* what either side may send on a channel before it is given credit */
#define WINDOW_BYTES (256u << 10)

struct field {
  uint32_t tag, length;
  const uint8_t *bytes;
};

/* Takes the next field off a payload. @returns 0 at its end, -1 when it is not made of fields */
int next_field(const uint8_t **at, size_t *left, struct field *);
/* The text of a field with a terminating zero, to be freed; NULL when there are zeros in it. */
char *field_text(const struct field *);
/* @returns 0 when it has another length */
int field_number(const struct field *, uint32_t *);

void add_bytes(struct buffer *, uint32_t tag, const void *, size_t);
void add_text(struct buffer *, uint32_t tag, const char *);
void add_number(struct buffer *, uint32_t tag, uint32_t);

/* -- link.c: connections of the host --------------------------------------------------------------------------- */

struct link;

struct transport {
  /* Sends what is in `out`, as far as it goes now, and the rest by itself later. */
  void (*flush)(struct link *);
  /* Lets go of what is below; the link is not used any more. */
  void (*close)(struct link *);
};

struct link {
  struct link *next;
  const struct transport *transport;
  /* of a socket */
  int fd;
  struct watch *watch;
  /* of the port: the stream's number, bytes the host takes, bytes it was not given credit for, and whether it ended */
  uint32_t stream, credit, taken;
  struct buffer in, out;
  int gone;
};

extern struct link *links;

/* The host has connected; it is greeted. NULL when there are too many. */
struct link *open_link(const struct transport *, int fd, uint32_t stream);
/* Looks at what has come into `in`. */
void link_received(struct link *);
void send_frame(struct link *, uint32_t type, uint32_t channel, const void *, size_t);
void send_fields(struct link *, uint32_t type, uint32_t channel, const struct buffer *);
/* A request was not carried out; the text is for people. */
void send_failure(struct link *, uint32_t channel, const char *format, ...) __attribute__((format(printf, 3, 4)));
/* Ends it with everything that was done for it. */
void close_link(struct link *);
/* Those that are closed are freed, once nobody looks at them. */
void free_links(void);
/* Whether so much is on its way to the host that no program is read from. */
int link_is_full(const struct link *);

/* -- requests.c ------------------------------------------------------------------------------------------------ */

void greet(struct link *);
void handle_frame(struct link *, const struct header *, const uint8_t *payload);

/* -- socket.c, port.c: ways to the host ------------------------------------------------------------------------ */

/* @returns 0 when this kernel has no vsock */
int listen_vsock(void);
void listen_unix(const char *path);
/* @returns 0 when there is no such port */
int open_port(void);
void use_port(int fd);

/* -- ready.c, quiesce.c, wake.c -------------------------------------------------------------------------------- */

void begin_ready(void);
void ask_ready(struct link *, uint32_t channel);
void forget_ready(struct link *);

void quiesce(struct link *, uint32_t channel, const char *token, uint32_t limit_ms);
/* @returns 0 when another token froze it */
int thaw(const char *token);
/* The host said something: who is frozen stays so for a while more. */
void heard_of_host(void);
const char *frozen_token(void);
/* Whether it stands still, or is about to. */
int is_held(void);
/* All but init, kernel and this program stand still, and will until it is thawed. */
int is_still(void);
void forget_quiesce(struct link *);
/* The machine goes on from memory: it is not thawed before it was woken. */
void was_restored(void);
/* A child of quiesce has ended. */
int quiesce_child(pid_t, int status);

void wake(struct link *, uint32_t channel, const uint8_t *payload, size_t length);
const char *wake_generation(void);

/* -- exec.c ---------------------------------------------------------------------------------------------------- */

void exec_command(struct link *, uint32_t channel, const uint8_t *payload, size_t length);
/* @returns 0 when the frame is for no command that runs */
int exec_frame(struct link *, const struct header *, const uint8_t *payload);
void forget_sessions(struct link *);
int session_child(pid_t, int status);
/* Output that waited for room on this link is read again. */
void resume_sessions(struct link *);

/* -- cgroups.c, processes.c ------------------------------------------------------------------------------------ */

/* Where commands run: a group of their own. -1 before there are control groups. */
int command_group(void);
/* Signals a session: its processes, their descendants and the sessions those began. */
void signal_session(pid_t leader, int number);

/* @returns bytes, or -1; the text ends with a zero */
ssize_t read_file(const char *path, char *text, size_t room);
int write_text(const char *path, const char *text);

#endif
