/* Addresses, routes and neighbours of the guest's network device, by the kernel's own messages in this process. */
#include "netlink.h"
#include "agent.h"
#include "kernel.h"
#include <errno.h>
#include <net/if.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/time.h>
#include <unistd.h>

#define MAX_ADDRESSES 32
#define MAX_NEIGHBOURS 64

struct message {
  struct netlink_header header;
  uint8_t body[256];
};

static uint32_t sequence;

int netlink_open(int protocol) {
  int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, protocol);
  /* the kernel answers at once; nothing here may wait for ever */
  const struct timeval limit = {.tv_sec = 2};
  if (fd >= 0) setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
  return fd;
}

static size_t aligned(size_t length) { return (length + 3) & ~(size_t)3; }

int netlink_ask(int fd, void *message, int (*on)(void *, uint16_t, const uint8_t *, size_t), void *owner) {
  static union {
    struct netlink_header first;
    uint8_t bytes[32768];
  } answer;
  struct netlink_header *header = message;
  struct netlink_address kernel = {.family = AF_NETLINK};
  header->sequence = ++sequence;
  if (sendto(fd, message, header->length, 0, (struct sockaddr *)&kernel, sizeof kernel) < 0) return -1;
  for (;;) {
    ssize_t length = recv(fd, answer.bytes, sizeof answer.bytes, 0);
    if (length < 0 && errno == EINTR) continue;
    if (length < 0) return -1;
    const uint8_t *at = answer.bytes, *end = at + length;
    while ((size_t)(end - at) >= sizeof *header) {
      struct netlink_header one;
      memcpy(&one, at, sizeof one);
      if (one.length < sizeof one || one.length > (size_t)(end - at)) break;
      const uint8_t *body = at + sizeof one;
      size_t size = one.length - sizeof one;
      at += aligned(one.length) < (size_t)(end - at) ? aligned(one.length) : (size_t)(end - at);
      if (one.sequence != sequence) continue;
      if (one.type == NLMSG_DONE) return 0;
      if (one.type == NLMSG_ERROR) {
        int32_t error = 0;
        if (size >= 4) memcpy(&error, body, 4);
        errno = -error;
        return error == 0 ? 0 : -1;
      }
      if (on && on(owner, one.type, body, size)) return 0;
    }
  }
}

size_t find_attribute(const uint8_t *at, size_t length, uint16_t type, const uint8_t **value) {
  while (length >= 4) {
    struct attribute attribute;
    memcpy(&attribute, at, sizeof attribute);
    if (attribute.length < 4 || attribute.length > length) return 0;
    if ((attribute.type & 0x3fff) == type) {
      *value = at + 4;
      return attribute.length - 4u;
    }
    size_t step = aligned(attribute.length);
    if (step > length) return 0;
    at += step;
    length -= step;
  }
  return 0;
}

static void begin_message(struct message *message, uint16_t type, uint16_t flags, const void *body, size_t length) {
  memset(message, 0, sizeof *message);
  message->header.type = type;
  message->header.flags = NLM_F_REQUEST | flags;
  message->header.length = (uint32_t)(sizeof message->header + aligned(length));
  memcpy(message->body, body, length);
}

static void add_attribute(struct message *message, uint16_t type, const void *value, size_t length) {
  struct attribute attribute = {(uint16_t)(4 + length), type};
  uint8_t *at = (uint8_t *)message + message->header.length;
  memcpy(at, &attribute, sizeof attribute);
  memcpy(at + 4, value, length);
  message->header.length += (uint32_t)aligned(4 + length);
}

struct listed {
  uint32_t index;
  struct ip_address *addresses;
  uint8_t *prefixes;
  int room, count;
};

static int one_address(void *owner, uint16_t type, const uint8_t *body, size_t length) {
  struct listed *listed = owner;
  struct address_message message;
  if (type != RTM_NEWADDR || length < sizeof message) return 0;
  memcpy(&message, body, sizeof message);
  if (message.index != listed->index || listed->count == listed->room) return 0;
  size_t size = message.family == AF_INET ? 4 : 16;
  const uint8_t *value = NULL;
  const uint8_t *rest = body + sizeof message;
  size_t left = length - sizeof message;
  size_t found = find_attribute(rest, left, IFA_LOCAL, &value);
  if (found == 0) found = find_attribute(rest, left, IFA_ADDRESS, &value);
  if (found != size) return 0;
  struct ip_address *address = &listed->addresses[listed->count];
  memset(address, 0, sizeof *address);
  address->family = message.family;
  memcpy(address->bytes, value, size);
  if (listed->prefixes) listed->prefixes[listed->count] = message.prefix_length;
  listed->count++;
  return 0;
}

static int dump_addresses(int fd, struct listed *listed) {
  struct message message;
  struct address_message body = {0};
  begin_message(&message, RTM_GETADDR, NLM_F_DUMP, &body, sizeof body);
  return netlink_ask(fd, &message, one_address, listed);
}

int list_addresses(const char *device, struct ip_address *addresses, int room) {
  struct listed listed = {.index = if_nametoindex(device), .addresses = addresses, .room = room};
  if (listed.index == 0) return 0;
  int fd = netlink_open(NETLINK_ROUTE);
  if (fd < 0) return -1;
  int result = dump_addresses(fd, &listed);
  close(fd);
  return result < 0 ? -1 : listed.count;
}

static int set_link(int fd, uint32_t index, const uint8_t *mac, uint32_t mtu, uint32_t change, uint32_t flags) {
  struct message message;
  struct link_message body = {.index = (int32_t)index, .flags = flags, .change = change};
  begin_message(&message, RTM_NEWLINK, NLM_F_ACK, &body, sizeof body);
  if (mac) add_attribute(&message, IFLA_ADDRESS, mac, 6);
  if (mtu) add_attribute(&message, IFLA_MTU, &mtu, 4);
  return netlink_ask(fd, &message, NULL, NULL);
}

/* A device that does not take it while it is up is put down for it. */
static int set_mac(int fd, uint32_t index, const uint8_t *mac) {
  if (set_link(fd, index, mac, 0, 0, 0) == 0) return 0;
  if (errno != EBUSY) return -1;
  if (set_link(fd, index, NULL, 0, IFF_UP, 0) < 0) return -1;
  int result = set_link(fd, index, mac, 0, 0, 0), failed = errno;
  if (set_link(fd, index, NULL, 0, IFF_UP, IFF_UP) < 0) return -1;
  errno = failed;
  return result;
}

static int set_address(int fd, uint16_t type, uint32_t index, const uint8_t *address, uint8_t prefix) {
  struct message message;
  struct address_message body = {.family = AF_INET, .prefix_length = prefix, .index = index};
  uint16_t flags = type == RTM_NEWADDR ? NLM_F_CREATE | NLM_F_REPLACE : 0;
  begin_message(&message, type, NLM_F_ACK | flags, &body, sizeof body);
  add_attribute(&message, IFA_LOCAL, address, 4);
  add_attribute(&message, IFA_ADDRESS, address, 4);
  return netlink_ask(fd, &message, NULL, NULL);
}

static int replace_addresses(int fd, uint32_t index, const uint8_t *address) {
  struct ip_address found[MAX_ADDRESSES];
  uint8_t prefixes[MAX_ADDRESSES];
  struct listed listed = {.index = index, .addresses = found, .prefixes = prefixes, .room = MAX_ADDRESSES};
  if (dump_addresses(fd, &listed) < 0) return -1;
  /* the new one first: with its last address a device loses its routes */
  if (set_address(fd, RTM_NEWADDR, index, address, 32) < 0) return -1;
  for (int at = 0; at < listed.count; at++) {
    if (found[at].family != AF_INET || memcmp(found[at].bytes, address, 4) == 0) continue;
    if (set_address(fd, RTM_DELADDR, index, found[at].bytes, prefixes[at]) < 0 && errno != EADDRNOTAVAIL) return -1;
  }
  return 0;
}

static int set_route(int fd, uint32_t index, const uint8_t *to, const uint8_t *gateway) {
  struct message message;
  struct route_message body = {
      .family = AF_INET,
      .destination_length = to ? 32 : 0,
      .table = RT_TABLE_MAIN,
      .protocol = RTPROT_BOOT,
      .scope = gateway ? RT_SCOPE_UNIVERSE : RT_SCOPE_LINK,
      .type = RTN_UNICAST,
  };
  begin_message(&message, RTM_NEWROUTE, NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE, &body, sizeof body);
  if (to) add_attribute(&message, RTA_DST, to, 4);
  if (gateway) add_attribute(&message, RTA_GATEWAY, gateway, 4);
  add_attribute(&message, RTA_OIF, &index, 4);
  return netlink_ask(fd, &message, NULL, NULL);
}

struct neighbours {
  uint32_t index;
  struct ip_address addresses[MAX_NEIGHBOURS];
  int count;
};

static int one_neighbour(void *owner, uint16_t type, const uint8_t *body, size_t length) {
  (void)type;
  struct neighbours *neighbours = owner;
  struct neighbour_message message;
  const uint8_t *value = NULL;
  if (length < sizeof message || neighbours->count == MAX_NEIGHBOURS) return 0;
  memcpy(&message, body, sizeof message);
  if ((uint32_t)message.index != neighbours->index || message.state & (NUD_PERMANENT | NUD_NOARP)) return 0;
  size_t size = find_attribute(body + sizeof message, length - sizeof message, NDA_DST, &value);
  if (size != 4 && size != 16) return 0;
  struct ip_address *address = &neighbours->addresses[neighbours->count++];
  address->family = message.family;
  memcpy(address->bytes, value, size);
  return 0;
}

/* The host's end of the link has another hardware address for each VM. */
static int forget_neighbours(int fd, uint32_t index) {
  struct message message;
  struct neighbours found = {.index = index};
  struct neighbour_message all = {0};
  begin_message(&message, RTM_GETNEIGH, NLM_F_DUMP, &all, sizeof all);
  if (netlink_ask(fd, &message, one_neighbour, &found) < 0) return -1;
  for (int at = 0; at < found.count; at++) {
    struct neighbour_message body = {.family = (uint8_t)found.addresses[at].family, .index = (int32_t)index};
    begin_message(&message, RTM_DELNEIGH, NLM_F_ACK, &body, sizeof body);
    add_attribute(&message, NDA_DST, found.addresses[at].bytes, body.family == AF_INET ? 4 : 16);
    if (netlink_ask(fd, &message, NULL, NULL) < 0 && errno != ENOENT) return -1;
  }
  return 0;
}

static const char *change_with(int fd, uint32_t index, const struct new_link *new) {
  if (new->mac && set_mac(fd, index, new->mac) < 0) return "the hardware address";
  if (new->mtu && set_link(fd, index, NULL, new->mtu, 0, 0) < 0) return "the MTU";
  if (set_link(fd, index, NULL, 0, IFF_UP, IFF_UP) < 0) return "the device";
  if (replace_addresses(fd, index, new->address) < 0) return "the address";
  if (set_route(fd, index, new->gateway, NULL) < 0) return "the route to the gateway";
  if (set_route(fd, index, NULL, new->gateway) < 0) return "the default route";
  if (forget_neighbours(fd, index) < 0) return "the neighbours";
  return NULL;
}

const char *change_link(const struct new_link *new) {
  uint32_t index = if_nametoindex(new->device);
  if (index == 0) return "the network device";
  int fd = netlink_open(NETLINK_ROUTE);
  if (fd < 0) return "netlink";
  const char *failed = change_with(fd, index, new);
  int reason = errno;
  close(fd);
  errno = reason;
  return failed;
}
