/**
 * Tap devices, opened and held by this process from the moment they are configured, as Firecracker does: in its own
 * network namespace, whatever /sys shows, and created where it may do so. QEMU inherits them.
 */
import { closeSync, constants, openSync, readFileSync } from 'node:fs';
import { ioErrorText } from '../../fault.ts';
import { loadLibc } from '../../libc.ts';

/** `TUNSETIFF` of linux/if_tun.h, and flags of its `struct ifreq`. */
const TUNSETIFF = 0x400454can;
const IFF_TAP = 0x0002;
const IFF_NO_PI = 0x1000;
const IFF_VNET_HDR = 0x4000;
const IFREQ_BYTES = 40;

/** `IFNAMSIZ`, with the terminating NUL. */
const NAME_BYTES = 16;

const DEVICE = '/dev/net/tun';

/** Why a tap cannot be had, in Firecracker's words. */
export class TapError extends Error {}

export class Tap {
  readonly fd: number;
  /** what the kernel calls it, which chooses the number of `tap%d` */
  readonly name: string;

  constructor(fd: number, name: string) {
    this.fd = fd;
    this.name = name;
  }

  /** Lets go of the device; one that was created by opening it is gone. */
  close(): void {
    closeSync(this.fd);
  }
}

/** @throws TapError */
export async function openTap(name: string): Promise<Tap> {
  if (Buffer.byteLength(name) >= NAME_BYTES) throw new TapError('Invalid interface name');
  const libc = await loadLibc();
  if (!libc) throw new TapError(`Couldn't open ${DEVICE}: this Node cannot call the C library (node:ffi)`);
  let fd: number;
  try {
    fd = openSync(DEVICE, constants.O_RDWR | constants.O_NONBLOCK);
  } catch (error) {
    throw new TapError(`Couldn't open ${DEVICE}: ${ioErrorText(error)}`);
  }
  const request = Buffer.alloc(IFREQ_BYTES);
  request.write(name, 'utf8');
  request.writeUInt16LE(IFF_TAP | IFF_NO_PI | IFF_VNET_HDR, NAME_BYTES);
  try {
    libc.ioctl(fd, TUNSETIFF, request);
  } catch (error) {
    closeSync(fd);
    throw new TapError(
      `Error while creating ifreq structure: ${ioErrorText(error)}. Invalid TUN/TAP Backend provided by ${name}. ` +
        'Check our documentation on setting up the network devices.',
    );
  }
  return new Tap(fd, request.toString('utf8', 0, request.indexOf(0)));
}

/** What the kernel counted at a device of this network namespace; directions are the device's. */
export interface DeviceCounters {
  rxBytes: number;
  rxPackets: number;
  txBytes: number;
  txPackets: number;
}

/** @returns zeros for a device that is not there */
export function deviceCounters(name: string): DeviceCounters {
  let text = '';
  try {
    text = readFileSync('/proc/self/net/dev', 'utf8');
  } catch {
    // no /proc of this process's namespace
  }
  const line = text.split('\n').find((each) => each.trimStart().startsWith(`${name}:`)) ?? '';
  const columns = line
    .slice(line.indexOf(`${name}:`) + name.length + 1)
    .trim()
    .split(/ +/)
    .map(Number);
  const [rxBytes = 0, rxPackets = 0, , , , , , , txBytes = 0, txPackets = 0] = columns;
  return { rxBytes, rxPackets, txBytes, txPackets };
}
