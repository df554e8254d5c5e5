/**
 * Leads an interface's packets through this process, where they can be looked at and made to wait. QEMU's
 * `filter-redirector` takes them out between the guest's card and the tap, and puts them back in.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import type { StoredLimiter } from '../rate-limiter.ts';
import { FramePort, frameOf, type Packet, packetOf } from './frame-port.ts';
import { Shaper } from './shaper.ts';

/** Runs QMP commands; `MicroVm.execute`. */
export type Execute = <T = unknown>(command: string, args?: Record<string, unknown>) => Promise<T>;

/** Takes a frame of the guest for itself, or returns false. */
export type Consumer = (frame: Buffer) => boolean;

/**
 * QEMU's word for a direction is the tap's: what it receives comes from the guest. Filters of that direction are
 * asked from the last to the first, those of the other from the first to the last; a packet that is put in must
 * not meet the filter that takes packets out.
 */
const FILTERS = {
  toTap: { queue: 'rx', end: 'indev', position: 'head' },
  fromGuest: { queue: 'rx', end: 'outdev', position: 'tail' },
  toGuest: { queue: 'tx', end: 'indev', position: 'tail' },
  fromTap: { queue: 'tx', end: 'outdev', position: 'head' },
} as const;

type Place = keyof typeof FILTERS;

/** QEMU accepts connections between two commands. */
const ACCEPT_ATTEMPTS = 100;
const ACCEPT_INTERVAL_MS = 5;

export class Detour {
  readonly #execute: Execute;
  readonly #netdev: string;
  readonly #worked: () => void;
  readonly #ports = new Map<Place, FramePort>();
  readonly #tx = new Shaper((packet) => this.#send('toTap', packet));
  readonly #rx = new Shaper((packet) => this.#send('toGuest', packet));
  #consume: Consumer = () => false;
  /** of the guest's packets; the ones that are put in have to have it too */
  #headerBytes = 0;

  /**
   * @param netdev id of QEMU's network backend
   * @param worked called for each packet
   */
  constructor(execute: Execute, netdev: string, worked: () => void) {
    this.#execute = execute;
    this.#netdev = netdev;
    this.#worked = worked;
  }

  /** Takes the guest's packets out. */
  async install(consume?: Consumer): Promise<void> {
    if (consume) this.#consume = consume;
    if (this.#ports.has('fromGuest')) return;
    await this.#connect({ toTap: undefined, toGuest: undefined, fromGuest: (packet) => this.#takeFromGuest(packet) });
  }

  /** Limits what the guest sends. */
  async limitTx(limiter: StoredLimiter | null): Promise<void> {
    if (limiter) await this.install();
    this.#tx.configure(limiter);
  }

  /** Limits what the guest receives. */
  async limitRx(limiter: StoredLimiter | null): Promise<void> {
    if (limiter && !this.#ports.has('fromTap')) {
      await this.install();
      await this.#connect({ fromTap: (packet) => this.#rx.push(packet) });
    }
    this.#rx.configure(limiter);
  }

  /** Sends a frame of this process's own to the guest. */
  sendToGuest(frame: Buffer): void {
    this.#send('toGuest', packetOf(frame, this.#headerBytes));
  }

  /** Packets that had to wait, by the guest's direction. */
  get throttled(): { rx: number; tx: number } {
    return { rx: this.#rx.throttled, tx: this.#tx.throttled };
  }

  #takeFromGuest(packet: Packet): boolean {
    this.#headerBytes = packet.headerBytes;
    return this.#consume(frameOf(packet)) ? false : this.#tx.push(packet);
  }

  #send(place: Place, packet: Packet): boolean {
    this.#worked();
    return this.#ports.get(place)?.send(packet) ?? false;
  }

  /** Connects through sockets in a private directory, which is gone again when this returns. */
  async #connect(places: Partial<Record<Place, ((packet: Packet) => boolean) | undefined>>): Promise<void> {
    const directory = await mkdtemp(join(tmpdir(), 'fcqemu-'));
    try {
      for (const [place, onPacket] of Object.entries(places) as [Place, (packet: Packet) => boolean][]) {
        const path = join(directory, place);
        await this.#execute('chardev-add', {
          id: this.#id(place),
          backend: { type: 'socket', data: { addr: { type: 'unix', data: { path } }, server: true, wait: false } },
        });
        const port = new FramePort(path, onPacket);
        await port.connected();
        await this.#accepted(place);
        this.#ports.set(place, port);
      }
    } finally {
      await rm(directory, { recursive: true, force: true });
    }
    // only now is there somebody to take what the last of them takes out
    for (const place of Object.keys(places) as Place[]) await this.#addFilter(place);
  }

  /** A filter whose device has no connection yet would let packets by. */
  async #accepted(place: Place): Promise<void> {
    for (let attempt = 0; attempt < ACCEPT_ATTEMPTS; attempt++) {
      const devices = await this.#execute<{ label: string; filename: string }[]>('query-chardev');
      const device = devices.find(({ label }) => label === this.#id(place));
      if (device && !device.filename.startsWith('disconnected:')) return;
      await delay(ACCEPT_INTERVAL_MS);
    }
    throw new Error('QEMU does not accept the connection to its packet filter');
  }

  async #addFilter(place: Place): Promise<void> {
    const { queue, end, position } = FILTERS[place];
    await this.#execute('object-add', {
      'qom-type': 'filter-redirector',
      id: `${this.#id(place)}-filter`,
      netdev: this.#netdev,
      queue,
      [end]: this.#id(place),
      position,
      vnet_hdr_support: true,
    });
  }

  #id(place: Place): string {
    return `${this.#netdev}-${place}`;
  }
}
