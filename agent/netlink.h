/* Addresses, routes and neighbours of the guest's network device, by the kernel's own messages. */
#ifndef NETLINK_H
#define NETLINK_H

#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

/* of either family; an IPv4 one has its four bytes first */
struct ip_address {
  sa_family_t family;
  uint8_t bytes[16];
};

int netlink_open(int protocol);
/*
 * Sends a message and hears what comes back, each answer with its type; stops at the first that `on` returns nonzero for.
 * @returns 0, or -1 with errno
 */
int netlink_ask(int fd, void *message, int (*on)(void *owner, uint16_t type, const uint8_t *body, size_t length), void *owner);
/* An attribute among those that follow the body of a message. @returns its length, 0 when there is none */
size_t find_attribute(const uint8_t *at, size_t length, uint16_t type, const uint8_t **value);

/* Addresses of the device, at most `room`. @returns how many, or -1 */
int list_addresses(const char *device, struct ip_address *, int room);

struct new_link {
  const char *device;
  /* NULL, or 0 = as it is */
  const uint8_t *mac;
  uint32_t mtu;
  uint8_t address[4], gateway[4];
};

/*
 * Gives the device its address instead of any other IPv4 one, its hardware address and its routes, and forgets its neighbours.
 * @returns NULL, or what did not work, with errno
 */
const char *change_link(const struct new_link *);

#endif
