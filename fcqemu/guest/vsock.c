/*
 * fcqemu-vsock: runs in guests of fcqemu and gives their programs what a vsock device would.
 *
 * fcqemu has no such device but one virtio-serial port, over which it speaks frames (docs/fcqemu.md, "vsock"). The
 * kernel's own vsock_loopback connects programs with this one: host connections are made to local listeners, and for
 * every port the host listens on there is a local listener here, which programs reach as context id 2.
 * Anywhere else, e.g. under Firecracker, there is no such port and nothing to do.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum operation { HELLO = 1, CONNECT, ACCEPT, RESET, DATA, FINISH, CREDIT, RESTORED, LISTEN, UNLISTEN };

/* argument of our hello: we want to be told which ports the host listens on */
#define WANTS_PORTS 1

#define PORT_NAME "fcqemu.vsock"
/* what either side may send on a stream before it gets credit */
#define WINDOW_BYTES (256 * 1024)
#define MAX_PAYLOAD_BYTES (64 * 1024)
/* small amounts of credit wait for more */
#define CREDIT_BYTES (WINDOW_BYTES / 4)
/* with more than this on its way to the host no program is read from */
#define BACKLOG_BYTES (128 * 1024)
#define MAX_STREAMS 1023
#define MAX_LISTENERS 1023
#define LISTEN_BACKLOG 64
/* time the kernel has to find the port, e.g. while modules are loaded */
#define PORT_SECONDS 5

/* linux/vm_sockets.h, which musl's headers are without */
#define CID_ANY 0xffffffffu
#define CID_LOCAL 1
struct address {
  sa_family_t family;
  uint16_t reserved;
  uint32_t port;
  uint32_t cid;
  uint8_t flags;
  uint8_t zero[3];
};

struct header {
  uint32_t operation, stream, argument, length;
};

/* a byte queue that grows */
struct queue {
  char *bytes;
  size_t from, to, room;
};

enum state {
  CONNECTING, /* to a local program */
  ASKED,      /* the host, whether it takes a connection of a local program */
  OPEN
};

struct stream {
  int fd;
  uint32_t id;
  enum state state;
  /* bytes the host takes at present */
  uint32_t credit;
  /* bytes the program took that the host was not told of */
  uint32_t taken;
  /* on its way to the program */
  struct queue inward;
  int host_finished, finished, shut;
};

struct listener {
  int fd;
  uint32_t port;
};

static int port = -1;
static struct queue outward;
static struct stream *streams[MAX_STREAMS];
static int stream_count;
static struct listener listeners[MAX_LISTENERS];
static int listener_count;
static uint32_t next_id = 1;

static void die(const char *what) {
  fprintf(stderr, "fcqemu-vsock: %s: %s\n", what, strerror(errno));
  exit(1);
}

static size_t queued(const struct queue *queue) { return queue->to - queue->from; }

static void append(struct queue *queue, const void *bytes, size_t length) {
  if (queue->room - queue->to < length) {
    if (queue->from > 0) memmove(queue->bytes, queue->bytes + queue->from, queued(queue));
    queue->to = queued(queue);
    queue->from = 0;
    if (queue->room - queue->to < length) {
      queue->room = queue->to + length + 4096;
      queue->bytes = realloc(queue->bytes, queue->room);
      if (!queue->bytes) die("memory");
    }
  }
  memcpy(queue->bytes + queue->to, bytes, length);
  queue->to += length;
}

/* Empty queues keep no memory: most streams are idle most of the time. */
static void take(struct queue *queue, size_t length) {
  queue->from += length;
  if (queue->from < queue->to) return;
  free(queue->bytes);
  memset(queue, 0, sizeof *queue);
}

static void say(enum operation operation, uint32_t stream, uint32_t argument, const void *payload, uint32_t length) {
  struct header header = {operation, stream, argument, length};
  append(&outward, &header, sizeof header);
  if (length > 0) append(&outward, payload, length);
}

static struct stream *find_stream(uint32_t id) {
  for (int at = 0; at < stream_count; at++)
    if (streams[at]->id == id) return streams[at];
  return NULL;
}

static struct stream *add_stream(int fd, uint32_t id, enum state state) {
  struct stream *stream = calloc(1, sizeof *stream);
  if (!stream) die("memory");
  stream->fd = fd;
  stream->id = id;
  stream->state = state;
  stream->credit = WINDOW_BYTES;
  streams[stream_count++] = stream;
  return stream;
}

static void drop(struct stream *stream) {
  close(stream->fd);
  free(stream->inward.bytes);
  for (int at = 0; at < stream_count; at++)
    if (streams[at] == stream) streams[at] = streams[--stream_count];
  free(stream);
}

static void break_off(struct stream *stream) {
  say(RESET, stream->id, 0, NULL, 0);
  drop(stream);
}

static int vsock_socket(void) { return socket(AF_VSOCK, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0); }

/* The host wants a local program. */
static void connect_local(uint32_t id, uint32_t to) {
  struct address address = {.family = AF_VSOCK, .port = to, .cid = CID_LOCAL};
  int fd = find_stream(id) || stream_count == MAX_STREAMS ? -1 : vsock_socket();
  if (fd >= 0 && (connect(fd, (struct sockaddr *)&address, sizeof address) == 0 || errno == EINPROGRESS)) {
    add_stream(fd, id, CONNECTING);
    return;
  }
  if (fd >= 0) close(fd);
  say(RESET, id, 0, NULL, 0);
}

static void connected(struct stream *stream) {
  int error = 0;
  socklen_t length = sizeof error;
  if (getsockopt(stream->fd, SOL_SOCKET, SO_ERROR, &error, &length) != 0 || error != 0) {
    break_off(stream);
    return;
  }
  stream->state = OPEN;
  say(ACCEPT, stream->id, 0, NULL, 0);
}

static void listen_for_host(uint32_t number) {
  struct address address = {.family = AF_VSOCK, .port = number, .cid = CID_ANY};
  for (int at = 0; at < listener_count; at++)
    if (listeners[at].port == number) return;
  int fd = listener_count == MAX_LISTENERS ? -1 : vsock_socket();
  if (fd >= 0 && bind(fd, (struct sockaddr *)&address, sizeof address) == 0 && listen(fd, LISTEN_BACKLOG) == 0) {
    listeners[listener_count++] = (struct listener){fd, number};
    return;
  }
  fprintf(stderr, "fcqemu-vsock: port %u of the host cannot be reached: %s\n", number, strerror(errno));
  if (fd >= 0) close(fd);
}

static void stop_listening(int at) {
  close(listeners[at].fd);
  listeners[at] = listeners[--listener_count];
}

/* A local program wants the host. */
static void accept_local(struct listener listener) {
  int fd;
  while ((fd = accept4(listener.fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
    if (stream_count == MAX_STREAMS) {
      close(fd);
      continue;
    }
    add_stream(fd, next_id, ASKED);
    say(CONNECT, next_id, listener.port, NULL, 0);
    next_id += 2;
  }
}

static void give_credit(struct stream *stream, size_t length) {
  stream->taken += length;
  if (stream->taken < CREDIT_BYTES) return;
  say(CREDIT, stream->id, stream->taken, NULL, 0);
  stream->taken = 0;
}

/* To the program, as far as it takes it. The stream may be gone afterwards. */
static void write_program(struct stream *stream) {
  while (queued(&stream->inward) > 0) {
    const char *bytes = stream->inward.bytes + stream->inward.from;
    ssize_t length = send(stream->fd, bytes, queued(&stream->inward), MSG_NOSIGNAL);
    if (length < 0 && errno == EINTR) continue;
    if (length < 0 && errno == EAGAIN) return;
    if (length < 0) {
      break_off(stream);
      return;
    }
    take(&stream->inward, length);
    give_credit(stream, length);
  }
  if (stream->host_finished && !stream->shut) {
    shutdown(stream->fd, SHUT_WR);
    stream->shut = 1;
  }
  if (stream->shut && stream->finished) drop(stream);
}

/* From the program, as far as the host takes it. The stream may be gone afterwards. */
static void read_program(struct stream *stream) {
  static char bytes[MAX_PAYLOAD_BYTES];
  if (stream->credit == 0 || stream->finished) return;
  ssize_t length = read(stream->fd, bytes, stream->credit < sizeof bytes ? stream->credit : sizeof bytes);
  if (length > 0) {
    stream->credit -= length;
    say(DATA, stream->id, 0, bytes, length);
  } else if (length == 0) {
    say(FINISH, stream->id, 0, NULL, 0);
    stream->finished = 1;
    /* a program that has closed its socket, instead of one direction of it, takes nothing any more */
    if (send(stream->fd, "", 0, MSG_NOSIGNAL) < 0 && errno == EPIPE) {
      say(RESET, stream->id, 0, NULL, 0);
      drop(stream);
    } else if (stream->shut) {
      drop(stream);
    }
  } else if (errno != EAGAIN && errno != EINTR) {
    break_off(stream);
  }
}

/* All that was before is gone: the machine was restored, or this begins. */
static void begin(void) {
  while (stream_count > 0) drop(streams[0]);
  while (listener_count > 0) stop_listening(0);
  say(HELLO, 0, WANTS_PORTS, NULL, 0);
}

static void handle(const struct header *header, const char *payload) {
  struct stream *stream = header->stream ? find_stream(header->stream) : NULL;
  switch (header->operation) {
  case HELLO:
    printf("fcqemu-vsock: the host is there, this is context id %u\n", header->argument);
    fflush(stdout);
    break;
  case CONNECT:
    connect_local(header->stream, header->argument);
    break;
  case ACCEPT:
    if (stream && stream->state == ASKED) stream->state = OPEN;
    break;
  case RESET:
    if (stream) drop(stream);
    break;
  case DATA:
    if (!stream) break;
    if (queued(&stream->inward) + header->length > WINDOW_BYTES || stream->host_finished) {
      break_off(stream);
      break;
    }
    append(&stream->inward, payload, header->length);
    write_program(stream);
    break;
  case FINISH:
    if (!stream) break;
    stream->host_finished = 1;
    write_program(stream);
    break;
  case CREDIT:
    if (stream) stream->credit += header->argument;
    break;
  case RESTORED:
    begin();
    break;
  case LISTEN:
    listen_for_host(header->argument);
    break;
  case UNLISTEN:
    for (int at = 0; at < listener_count; at++)
      if (listeners[at].port == header->argument) {
        stop_listening(at);
        break;
      }
    break;
  }
}

/* @returns 0 when the host is not there */
static int read_port(void) {
  static char frame[sizeof(struct header) + MAX_PAYLOAD_BYTES];
  static size_t have;
  for (;;) {
    const struct header *header = (const struct header *)frame;
    size_t wanted = sizeof *header;
    if (have >= wanted) wanted += header->length;
    if (wanted > sizeof frame) {
      errno = EPROTO;
      die("a frame that is too long");
    }
    if (have == wanted) {
      handle(header, frame + sizeof *header);
      have = 0;
      continue;
    }
    ssize_t length = read(port, frame + have, wanted - have);
    if (length > 0) have += length;
    else if (length == 0) return 0;
    else if (errno == EAGAIN) return 1;
    else if (errno != EINTR) die("reading the port");
  }
}

static void write_port(void) {
  while (queued(&outward) > 0) {
    ssize_t length = write(port, outward.bytes + outward.from, queued(&outward));
    if (length > 0) take(&outward, length);
    else if (length == 0 || errno == EAGAIN) return;
    else if (errno != EINTR) die("writing to the port");
  }
}

/* As far as there is a modprobe: most kernels have both as modules. */
static void load_modules(void) {
  pid_t child = fork();
  if (child == 0) {
    int nothing = open("/dev/null", O_RDWR);
    if (nothing >= 0) dup2(nothing, 2);
    execlp("modprobe", "modprobe", "-q", "-a", "virtio_console", "vsock_loopback", NULL);
    _exit(127);
  }
  if (child > 0) waitpid(child, NULL, 0);
}

/* The device whose name in sysfs is ours: /dev/virtio-ports/ exists only with udev. */
static int open_port(void) {
  char path[300], name[64];
  int found = -1;
  DIR *directory = opendir("/sys/class/virtio-ports");
  if (!directory) return -1;
  for (struct dirent *entry; found < 0 && (entry = readdir(directory));) {
    snprintf(path, sizeof path, "/sys/class/virtio-ports/%s/name", entry->d_name);
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0) continue;
    ssize_t length = read(file, name, sizeof name - 1);
    close(file);
    if (length < 0) continue;
    name[length] = 0;
    if (strcmp(name, PORT_NAME "\n") != 0) continue;
    snprintf(path, sizeof path, "/dev/%s", entry->d_name);
    found = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (found < 0 && errno != ENOENT) die(path);
  }
  closedir(directory);
  return found;
}

static void find_port(void) {
  const struct timespec tenth = {.tv_nsec = 100000000};
  for (int attempt = 0; attempt < PORT_SECONDS * 10; attempt++) {
    port = open_port();
    if (port >= 0) return;
    nanosleep(&tenth, NULL);
  }
  printf("fcqemu-vsock: there is no port named " PORT_NAME ", so there is nothing to do\n");
  exit(0);
}

static short events_of(const struct stream *stream) {
  if (stream->state == CONNECTING) return POLLOUT;
  if (stream->state == ASKED) return 0;
  short events = queued(&stream->inward) > 0 ? POLLOUT : 0;
  if (stream->credit > 0 && !stream->finished && queued(&outward) < BACKLOG_BYTES) events |= POLLIN;
  return events;
}

int main(void) {
  static struct pollfd polled[1 + MAX_LISTENERS + MAX_STREAMS];
  static uint32_t ids[MAX_STREAMS];
  signal(SIGPIPE, SIG_IGN);
  load_modules();
  find_port();
  begin();
  for (;;) {
    write_port();
    int count = 0, first_stream = 1 + listener_count, ports = listener_count;
    polled[count++] = (struct pollfd){port, POLLIN | (queued(&outward) > 0 ? POLLOUT : 0), 0};
    for (int at = 0; at < listener_count; at++) polled[count++] = (struct pollfd){listeners[at].fd, POLLIN, 0};
    for (int at = 0; at < stream_count; at++) {
      short events = events_of(streams[at]);
      ids[at] = streams[at]->id;
      /* nothing is asked of one that waits, not even whether it broke: poll would return at once, again and again */
      polled[count++] = (struct pollfd){events ? streams[at]->fd : -1, events, 0};
    }
    if (poll(polled, count, -1) < 0) {
      if (errno == EINTR) continue;
      die("poll");
    }
    /* what follows may change the tables: streams are found by their numbers, and listeners come before frames */
    for (int at = 0; at < ports; at++)
      if (polled[1 + at].revents) accept_local(listeners[at]);
    for (int at = first_stream; at < count; at++) {
      short seen = polled[at].revents;
      uint32_t id = ids[at - first_stream];
      struct stream *stream = seen ? find_stream(id) : NULL;
      if (!stream) continue;
      if (stream->state == CONNECTING) {
        connected(stream);
        continue;
      }
      if (seen & POLLOUT) write_program(stream);
      stream = find_stream(id);
      if (stream && seen & (POLLIN | POLLHUP | POLLERR)) read_program(stream);
    }
    if (polled[0].revents && !read_port()) {
      /* the host's end is closed for a moment; there is no event for its return */
      const struct timespec tenth = {.tv_nsec = 100000000};
      nanosleep(&tenth, NULL);
    }
  }
}
