/**
 * A network device that VMs which are asleep are routed to: what would have been refused is read here, and sent on when the
 * VM is up. It exists as long as this process, or the one that reads from it, has it open.
 */
import { closeSync, constants, openSync, writeSync } from 'node:fs';
import { Writable } from 'node:stream';
import { BangerError } from '../errors.ts';
import { loadLibc } from '../system/libc.ts';
import type { Privileged } from '../system/privilege.ts';
import type { Runner } from '../system/runner.ts';
import { writeSetting } from './forwarding.ts';
import { createPacketCutter } from './held-packets.ts';
import { withoutLinkLocal } from './ipv6.ts';

export interface SleepDevice extends Disposable {
  /** Leads packets for these addresses here, and for no others. @param kept whose way is left as it is */
  lead(addresses: readonly string[], kept?: readonly string[]): Promise<void>;
  /** Sends a packet on its way as if it had just come from here. */
  passOn(packet: Buffer): void;
}

export interface SleepDeviceOptions {
  runner: Runner;
  privileged: Privileged;
  programs: { ip: string; sysctl: string };
  name: string;
  /** address of the host's side, as on the devices of VMs that run */
  gateway: string;
  onPacket(packet: Buffer): void;
  /** called when it is gone by itself */
  onLost(error: unknown): void;
  /** whether the kernel has IPv6; looked up unless it is known */
  hasIpv6?: boolean;
}

/** `TUNSETIFF` of linux/if_tun.h, and flags of its `struct ifreq`. */
const TUNSETIFF = 0x400454can;
const IFF_TUN = 0x0001;
const IFF_NO_PI = 0x1000;
const IFREQ_BYTES = 40;
/** `IFNAMSIZ` */
const NAME_BYTES = 16;

/** Of VMs that nothing wakes by itself. */
const HINT = 'Let VMs that sleep go on by a command: banger resume NAME';

/** The longest a timer takes. */
const FOR_EVER_MS = 2 ** 31 - 1;

/** @throws BangerError `host_unprepared` where this process may not make such devices, or cannot call the C library */
export async function openSleepDevice(options: SleepDeviceOptions): Promise<SleepDevice> {
  const { runner, privileged, programs, name, gateway } = options;
  const fd = await openTun(name);
  const closing = new AbortController();
  try {
    const lines = [
      ...withoutLinkLocal(name, options.hasIpv6),
      ['address', 'replace', `${gateway}/32`, 'dev', name],
      ['link', 'set', 'dev', name, 'up'],
    ];
    await privileged.run([programs.ip, '-batch', '-'], {
      input: lines.map((words) => `${words.join(' ')}\n`).join(''),
    });
    // what is sent on has an address of this host, or of another VM, and is to go further
    for (const [setting, value] of [
      ['accept_local', '1'],
      ['rp_filter', '0'],
      ['forwarding', '1'],
    ] as const) {
      await writeSetting(privileged, programs.sysctl, `net/ipv4/conf/${name}/${setting}`, value);
    }
  } catch (error) {
    closeSync(fd);
    throw error;
  }
  const led = new Set<string>();
  let open = true;
  const close = () => {
    if (open) closeSync(fd);
    open = false;
  };
  // Node cannot wait for such a device; a program that can ends with this process
  void runner
    .run(['setpriv', '--pdeathsig', 'KILL', '--', 'cat'], {
      ...{ stdin: fd, output: packetSink(options.onPacket), signal: closing.signal, timeoutMs: FOR_EVER_MS },
    })
    .then(
      () => new BangerError('internal', `Nothing more came from ${name}.`),
      (error) => error,
    )
    .then((error) => {
      if (closing.signal.aborted) return;
      close();
      options.onLost(error);
    });
  return {
    async lead(addresses, kept = []) {
      const wanted = new Set([...addresses, ...kept]);
      for (const address of led) {
        if (wanted.has(address)) continue;
        led.delete(address);
        // exit 2: the VM is up, and the route is its device's
        await privileged.run([programs.ip, 'route', 'delete', `${address}/32`, 'dev', name], { okExits: [0, 2] });
      }
      if (addresses.length === 0) return;
      const routes = addresses.map((address) => `route replace ${address}/32 dev ${name} src ${gateway}\n`);
      await privileged.run([programs.ip, '-batch', '-'], { input: routes.join('') });
      for (const address of addresses) led.add(address);
    },
    passOn(packet) {
      if (open) writeSync(fd, packet);
    },
    [Symbol.dispose]() {
      closing.abort();
      close();
    },
  };
}

async function openTun(name: string): Promise<number> {
  const libc = await loadLibc({ ioctl: { arguments: ['int32', 'uint64', 'buffer'], return: 'int32' } });
  if (!libc)
    throw new BangerError('host_unprepared', 'This Node cannot call the C library (node:ffi).', { hint: HINT });
  const fd = openSync('/dev/net/tun', constants.O_RDWR);
  const request = Buffer.alloc(IFREQ_BYTES);
  request.write(name, 0, NAME_BYTES - 1, 'utf8');
  request.writeUInt16LE(IFF_TUN | IFF_NO_PI, NAME_BYTES);
  if (libc.ioctl(fd, TUNSETIFF, request) === 0) return fd;
  closeSync(fd);
  throw new BangerError('host_unprepared', `The network device ${name} could not be made.`, { hint: HINT });
}

function packetSink(onPacket: (packet: Buffer) => void): Writable {
  const cut = createPacketCutter();
  return new Writable({
    write(chunk: Buffer, _encoding, done) {
      try {
        for (const packet of cut(chunk)) onPacket(packet);
        done();
      } catch (error) {
        done(error instanceof Error ? error : new Error(String(error)));
      }
    },
  });
}
