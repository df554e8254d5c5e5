/** TAP devices: one per VM, owned by the daemon's user; the host routes the VM's address to it. */
import { access } from 'node:fs/promises';
import { BangerError } from '../errors.ts';
import type { Privileged } from '../system/privilege.ts';
import { withoutLinkLocal } from './ipv6.ts';

export interface Tap {
  /** host interface name, derived from the VM's id so a leftover can be traced, e.g. `bgr-5f3a9c01` */
  name: string;
  /** the VM's address, routed to this device as a /32 */
  address: string;
  /** the VM's MAC; a fixed neighbour entry saves the guest and the host an ARP round trip */
  mac: string;
  /** MAC of this device, always the same: a guest that goes on from kept memory remembers it */
  hostMac: string;
  /** address the guest uses as its gateway, the same on every tap */
  gateway: string;
  /** bytes; the guest's interface uses the same */
  mtu: number;
  /** user that may open the device without privileges */
  ownerUid: number;
}

/** Linux limits interface names to 15 bytes. */
const MAX_NAME_LENGTH = 15;

export interface TapOptions {
  /** set up by one program, where that may be told anything; by one for each step otherwise */
  atOnce?: boolean;
  /** waited for before the device comes up */
  guarded?: Promise<void>;
  /** whether the kernel has IPv6; looked up unless it is known */
  hasIpv6?: boolean | undefined;
}

/**
 * Creates the device with its address, route and neighbour entry.
 * @throws BangerError `conflict` when a device of that name exists that nobody here made
 * @throws BangerError `host_unprepared` when TUN is missing or this user may not create devices
 */
export async function createTap(
  privileged: Privileged,
  ip: string,
  tap: Tap,
  { atOnce = false, guarded = Promise.resolve(), hasIpv6 }: TapOptions = {},
): Promise<void> {
  // the failure of the device is told first, and both have ended by then
  const made = await Promise.allSettled([makeTap(privileged, ip, tap), guarded]);
  for (const outcome of made) if (outcome.status === 'rejected') throw outcome.reason;
  if (atOnce) {
    const lines = firstSettingUp(tap, hasIpv6).map((words) => `${words.join(' ')}\n`);
    await privileged.run([ip, '-batch', '-'], { input: lines.join('') });
    return;
  }
  for (const words of withoutLinkLocal(tap.name, hasIpv6)) await privileged.run([ip, ...words]);
  await setUpTap(privileged, ip, tap);
}

/** What a device needs that was just made, each the arguments of `ip`. */
export function firstSettingUp(tap: Tap, hasIpv6?: boolean): string[][] {
  return [...withoutLinkLocal(tap.name, hasIpv6), ...settingUp(tap)];
}

/** It is down, and carries nothing. */
async function makeTap(privileged: Privileged, ip: string, tap: Tap): Promise<void> {
  if (tap.name.length > MAX_NAME_LENGTH) throw new BangerError('internal', `The tap name ${tap.name} is too long.`);
  if (await tapExists(tap.name)) {
    throw new BangerError('conflict', `A network device ${tap.name} exists already and is not this VM's.`, {
      hint: `Look at it with: ip -d link show ${tap.name}`,
    });
  }
  try {
    await privileged.run([ip, 'tuntap', 'add', 'dev', tap.name, 'mode', 'tap', 'user', String(tap.ownerUid)]);
  } catch (error) {
    if (error instanceof BangerError && error.code !== 'command_failed') throw error;
    throw new BangerError('host_unprepared', `The network device ${tap.name} could not be created: ${reason(error)}`, {
      cause: error,
      hint: 'See what is missing: banger doctor',
    });
  }
}

/** What a device needs to carry packets, each the arguments of `ip`; the first is no failure where it has the address. */
function settingUp({ name, address, gateway, hostMac, mac, mtu }: Tap): string[][] {
  return [
    ['address', 'add', `${gateway}/32`, 'dev', name],
    ['link', 'set', 'dev', name, 'address', hostMac, 'mtu', String(mtu), 'up'],
    ['route', 'replace', `${address}/32`, 'dev', name, 'src', gateway],
    ['neighbour', 'replace', address, 'lladdr', mac, 'dev', name, 'nud', 'permanent'],
  ];
}

/** Gives an existing device what it needs to carry packets; also one that others shut down or took parts from. */
export async function setUpTap(privileged: Privileged, ip: string, tap: Tap): Promise<void> {
  for (const words of settingUp(tap)) {
    // exit 2 is "File exists"
    await privileged.run([ip, ...words], { okExits: words[0] === 'address' ? [0, 2] : [0] });
  }
}

/** Removes the device, and with it its address and route; removing one that is already gone succeeds. */
export async function deleteTap(privileged: Privileged, ip: string, name: string): Promise<void> {
  if (await tapExists(name)) await privileged.run([ip, 'link', 'delete', 'dev', name]);
}

export async function tapExists(name: string): Promise<boolean> {
  try {
    await access(`/sys/class/net/${name}`);
    return true;
  } catch {
    return false;
  }
}

function reason(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
