/*
 * Programs of a guest that know of AF_VSOCK and of nothing else:
 *   serve PORT        sends back what comes, connection by connection, and closes its direction when the other end has
 *   hang-up PORT      takes one connection, says "bye" and closes it
 *   ask PORT TEXT     sends TEXT to the host and prints what comes back
 *   flood PORT BYTES  sends so many bytes to the host and prints the first line of what comes back
 */
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

struct address {
  sa_family_t family;
  uint16_t reserved;
  uint32_t port, cid;
  uint8_t zero[4];
};

static char bytes[65536];

static void send_all(int fd, size_t length) {
  for (size_t at = 0; at < length;) {
    ssize_t written = write(fd, bytes + at, length - at);
    if (written < 0) exit(1);
    at += written;
  }
}

int main(int argc, char **argv) {
  if (argc < 3) return 2;
  struct address address = {.family = AF_VSOCK, .port = strtoul(argv[2], NULL, 10)};
  int fd = socket(AF_VSOCK, SOCK_STREAM, 0);
  ssize_t length;
  if (strcmp(argv[1], "ask") == 0 || strcmp(argv[1], "flood") == 0) {
    address.cid = 2;
    if (connect(fd, (struct sockaddr *)&address, sizeof address) != 0) {
      printf("asked %s: %s\n", argv[2], strerror(errno));
      return 1;
    }
    if (strcmp(argv[1], "ask") == 0) {
      length = snprintf(bytes, sizeof bytes, "%s", argv[3]);
      send_all(fd, length);
    } else {
      for (long left = atol(argv[3]); left > 0; left -= sizeof bytes)
        send_all(fd, left < (long)sizeof bytes ? (size_t)left : sizeof bytes);
    }
    shutdown(fd, SHUT_WR);
    printf("asked %s: ", argv[2]);
    fflush(stdout);
    while ((length = read(fd, bytes, sizeof bytes)) > 0) fwrite(bytes, 1, length, stdout);
    printf("\n");
    return 0;
  }
  address.cid = 0xffffffff;
  if (bind(fd, (struct sockaddr *)&address, sizeof address) != 0 || listen(fd, 16) != 0) {
    perror("vsock-peer");
    return 1;
  }
  printf("%s %s\n", argv[1], argv[2]);
  fflush(stdout);
  for (;;) {
    int peer = accept(fd, NULL, NULL);
    if (strcmp(argv[1], "hang-up") == 0) {
      write(peer, "bye", 3);
    } else if (fork() == 0) {
      while ((length = read(peer, bytes, sizeof bytes)) > 0) send_all(peer, length);
      return 0;
    }
    close(peer);
    while (waitpid(-1, NULL, WNOHANG) > 0) continue;
  }
}
