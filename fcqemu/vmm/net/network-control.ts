/** Interfaces of a running machine: limits, the metadata service and counters. */
import type { ActionArguments } from '../../api/actions.ts';
import { addDevice, type Totals } from '../../metrics.ts';
import { netdevId } from '../../qemu/arguments.ts';
import type { MicroVm } from '../micro-vm.ts';
import { GuestApi } from '../mmds/guest-api.ts';
import { type MmdsCounter, MmdsStack } from '../mmds/stack.ts';
import type { Mmds } from '../mmds/store.ts';
import { Tokens } from '../mmds/tokens.ts';
import { type Consumer, Detour } from './detour.ts';
import { type NetworkInterfaces, updateFault } from './interfaces.ts';

export interface NetworkControlOptions {
  vm: Pick<MicroVm, 'execute'>;
  interfaces: NetworkInterfaces;
  mmds: Mmds;
  /** counts for the metrics group `mmds` */
  count: (counter: MmdsCounter, amount?: number) => void;
  /** called for each packet that comes through this process */
  worked: () => void;
}

export class NetworkControl {
  readonly #options: NetworkControlOptions;
  /** by interface id; packets of the others go straight to their tap */
  readonly #detours = new Map<string, Detour>();
  #guestApi: GuestApi | undefined;

  constructor(options: NetworkControlOptions) {
    this.#options = options;
  }

  /** Sets up what is configured, on a machine that is about to run. @throws Error */
  async activate(): Promise<void> {
    const { interfaces, mmds } = this.#options;
    for (const { iface_id, rx_rate_limiter, tx_rate_limiter } of interfaces.list) {
      if (mmds.config?.network_interfaces.includes(iface_id)) await this.#serveMetadata(iface_id, mmds);
      if (rx_rate_limiter) await this.#detour(iface_id).limitRx(rx_rate_limiter);
      if (tx_rate_limiter) await this.#detour(iface_id).limitTx(tx_rate_limiter);
    }
  }

  /** `PATCH /network-interfaces`. @throws Fault */
  async update(update: ActionArguments['UpdateNetworkInterface']): Promise<void> {
    const { interfaces } = this.#options;
    const iface = interfaces.find(update.iface_id);
    if (!iface) throw updateFault('Failed perform action on device: Device not found');
    interfaces.update(iface, update);
    try {
      if (update.rx_rate_limiter) await this.#detour(iface.iface_id).limitRx(iface.rx_rate_limiter);
      if (update.tx_rate_limiter) await this.#detour(iface.iface_id).limitTx(iface.tx_rate_limiter);
    } catch (error) {
      throw updateFault(error instanceof Error ? error.message : String(error));
    }
  }

  /** Firecracker's counters of all interfaces, and of each as `net_<id>`. */
  counters(): Totals {
    const totals: Totals = {};
    for (const iface of this.#options.interfaces.list) {
      const throttled = this.#detours.get(iface.iface_id)?.throttled ?? { rx: 0, tx: 0 };
      addDevice(totals, 'net', iface.iface_id, {
        ...this.#options.interfaces.counters(iface),
        rx_rate_limiter_throttled: throttled.rx,
        tx_rate_limiter_throttled: throttled.tx,
      });
    }
    return totals;
  }

  async #serveMetadata(interfaceId: string, mmds: Mmds): Promise<void> {
    const { count } = this.#options;
    this.#guestApi ??= new GuestApi(mmds, new Tokens(), count);
    const guestApi = this.#guestApi;
    const detour = this.#detour(interfaceId);
    const stack = new MmdsStack({
      address: mmds.address,
      answer: (request) => guestApi.answer(request),
      send: (frame) => detour.sendToGuest(frame),
      count,
    });
    const consume: Consumer = (frame) => stack.receive(frame);
    await detour.install(consume);
  }

  #detour(interfaceId: string): Detour {
    const { interfaces, vm, worked } = this.#options;
    const known = this.#detours.get(interfaceId);
    if (known) return known;
    const index = interfaces.list.findIndex(({ iface_id }) => iface_id === interfaceId);
    const detour = new Detour(vm.execute.bind(vm), netdevId(index), worked);
    this.#detours.set(interfaceId, detour);
    return detour;
  }
}
