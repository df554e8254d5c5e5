/** Whether anything on the host changed that links to VMs depend on, as the kernel tells it. */
import { NETLINK_NETFILTER, NETLINK_ROUTE, type NetlinkSubscription, subscribeNetlink } from '../system/netlink.ts';

export interface Changes {
  /** whether this banger's table may be another than it was */
  rules: boolean;
  /** whether devices, their addresses, routes or forwarding may be */
  links: boolean;
}

export interface HostChanges extends Disposable {
  /** whether the kernel tells of rules; otherwise they have always changed */
  readonly hearsRules: boolean;
  /** What came since the last call; what cannot be heard has always changed. */
  take(): Changes;
}

/** Group 7 of linux/netfilter/nfnetlink.h: every change of packet rules, with the name of its table. */
const NFTABLES = 1 << 6;

/** Groups of linux/rtnetlink.h: 1 devices, 5 addresses, 7 routes, 8 rules that choose among them, 24 forwarding, of IPv4. */
const LINKS = (1 << 0) | (1 << 4) | (1 << 6) | (1 << 7) | (1 << 23);

type Subscribe = typeof subscribeNetlink;

/**
 * @param table nftables table of this banger; changes of others' are nothing to it, however many
 * @param subscribe how the kernel is asked
 */
export async function followHostChanges(table: string, subscribe: Subscribe = subscribeNetlink): Promise<HostChanges> {
  const rules = await subscribe(NETLINK_NETFILTER, NFTABLES);
  const links = await subscribe(NETLINK_ROUTE, LINKS);
  // names in messages end with a zero byte
  const name = Buffer.from(`${table}\0`);
  return {
    hearsRules: rules !== undefined,
    take: () => ({
      rules: heard(rules, (datagram) => datagram.includes(name)),
      links: heard(links, () => true),
    }),
    [Symbol.dispose]() {
      rules?.[Symbol.dispose]();
      links?.[Symbol.dispose]();
    },
  };
}

function heard(subscription: NetlinkSubscription | undefined, concerns: (datagram: Buffer) => boolean): boolean {
  if (!subscription) return true;
  let changed = false;
  const complete = subscription.drain((datagram) => {
    changed ||= concerns(datagram);
  });
  return changed || !complete;
}
