/** IPv6 is not routed to guests, and nothing of the host answers them on it. */
import { existsSync } from 'node:fs';

/** Whether this kernel has it: one that was booted with `ipv6.disable=1` has none of its settings. */
function kernelHasIpv6(): boolean {
  return existsSync('/proc/sys/net/ipv6');
}

/**
 * Arguments of `ip` for a device that is to get no link-local address when it comes up.
 * @param hasIpv6 whether the kernel has IPv6; one without refuses what is said about it, and gives no such address
 */
export function withoutLinkLocal(device: string, hasIpv6 = kernelHasIpv6()): string[][] {
  return hasIpv6 ? [['link', 'set', 'dev', device, 'addrgenmode', 'none']] : [];
}
