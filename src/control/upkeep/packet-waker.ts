/**
 * Lets VMs go on that are asleep because nobody used them, when somebody connects to them: their addresses lead to a device of
 * ours, where the first packet of a connection is held until its VM is up.
 */
import { networkInterfaces } from 'node:os';
import { gatewayOf } from '../../core/addresses.ts';
import type { VmRecord } from '../../core/vm.ts';
import { messageOf } from '../../errors.ts';
import { type OpeningPacket, openingOf } from '../../network/held-packets.ts';
import { openSleepDevice, type SleepDevice, type SleepDeviceOptions } from '../../network/sleep-device.ts';
import { HOST_OWNER } from '../../state/ledger.ts';
import type { Host } from '../host.ts';
import { awaken, type Resumer } from '../vm/awaken.ts';

export interface PacketWaker {
  /** Has the device lead where it should, from now on too. */
  begin(): void;
  close(): Promise<void>;
}

/** More connections than that to one VM begin anew when it is up. */
const MAX_HELD = 32;

/** A VM that could not go on is not tried again for every packet. */
const RETRY_MS = 60_000;

type WakerHost = Pick<Host, 'config' | 'log' | 'network' | 'operations' | 'stores' | 'system'>;

/** What it works with besides. */
export interface WakerSurroundings {
  /** name of its device */
  name: string;
  open(options: SleepDeviceOptions): Promise<SleepDevice>;
  /** addresses of this host */
  ownAddresses(): readonly string[];
}

const SURROUNDINGS: Omit<WakerSurroundings, 'name'> = {
  open: openSleepDevice,
  ownAddresses: () => Object.values(networkInterfaces()).flatMap((each) => (each ?? []).map(({ address }) => address)),
};

export function createPacketWaker(
  host: WakerHost,
  life: Resumer,
  { name, open, ownAddresses }: Pick<WakerSurroundings, 'name'> & Partial<WakerSurroundings>,
): PacketWaker {
  const { stores } = host;
  const make = open ?? SURROUNDINGS.open;
  const own = ownAddresses ?? SURROUNDINGS.ownAddresses;
  let device: SleepDevice | undefined;
  let unsubscribe = () => {};
  let closed = false;
  /** packets by id of the VM that they wait for, while it is on its way */
  const held = new Map<string, Buffer[]>();
  /** until when a VM is left alone, of `performance.now()` */
  const failed = new Map<string, number>();

  /** @returns whether there may have been one */
  function letGo(): boolean {
    device?.[Symbol.dispose]();
    device = undefined;
    const wasThere = stores.ledger.of(HOST_OWNER).some((resource) => resource.kind === 'tap' && resource.name === name);
    stores.ledger.strike('tap', name);
    return wasThere;
  }

  /** What stays of it otherwise is a wall before nothing. */
  async function letGoWithRules(): Promise<void> {
    try {
      if (letGo()) await host.network.alone((writeRules) => writeRules());
    } catch (error) {
      host.log.warn({ device: name, error: messageOf(error) }, 'packet rules about suspended VMs are left');
    }
  }

  /** In step with what attaches VMs: the route of one that is up must not be taken from it. */
  async function follow(): Promise<void> {
    await host.network.alone(async (writeRules) => {
      if (closed) return;
      const asleep = stores.vms.list().filter(sleepsUntilWanted);
      // until it has a device of its own
      const onTheirWay = stores.vms.list().filter(isOnItsWay);
      if (asleep.length + onTheirWay.length + held.size === 0) {
        if (letGo()) await writeRules();
        return;
      }
      if (asleep.length > 0) device ??= await openDevice(writeRules);
      if (closed) letGo();
      await device?.lead(addressesOf(asleep), addressesOf(onTheirWay));
    });
  }

  /** Behind rules that say who may send anything there. */
  async function openDevice(writeRules: () => Promise<void>): Promise<SleepDevice> {
    stores.ledger.record(HOST_OWNER, { kind: 'tap', name });
    await writeRules();
    const { runner, privileged } = host.system;
    return await make({
      ...{ runner, privileged, programs: host.config.programs, name, gateway: gatewayOf(host.network.pool) },
      onPacket,
      onLost(error) {
        host.log.warn({ device: name, error: messageOf(error) }, 'suspended VMs are not woken by packets for now');
        device = undefined;
      },
    });
  }

  function onPacket(packet: Buffer): void {
    const opening = openingOf(packet);
    const vm = opening && stores.vms.list().find(({ address }) => address === opening.target);
    if (!opening || !vm || !mayWake(opening)) return;
    const waiting = held.get(vm.id);
    if (waiting) {
      if (waiting.length < MAX_HELD) waiting.push(Buffer.from(packet));
      return;
    }
    // on its way for another reason, or asleep
    if (!sleepsUntilWanted(vm) && !isOnItsWay(vm)) return;
    if ((failed.get(vm.id) ?? 0) > performance.now()) return;
    held.set(vm.id, [Buffer.from(packet)]);
    void wake(vm);
  }

  /** Who may reach the VM when it is up: this host, and other VMs where that is wanted. Nobody else gets past the rules. */
  function mayWake({ source }: OpeningPacket): boolean {
    if (own().includes(source)) return true;
    return host.config.network.vmToVm && stores.vms.list().some(({ address }) => address === source);
  }

  async function wake({ id, name: vmName }: VmRecord): Promise<void> {
    host.log.info({ vm: vmName }, 'goes on, as somebody connects to it');
    try {
      await awaken(host, life, id, { signal: new AbortController().signal });
      // one that was stopped or deleted meanwhile takes none
      if (stores.vms.findById(id)?.phase !== 'running') return;
      for (const packet of held.get(id) ?? []) device?.passOn(packet);
    } catch (error) {
      failed.set(id, performance.now() + RETRY_MS);
      host.log.warn({ vm: vmName, error: messageOf(error) }, 'a suspended VM could not go on');
    } finally {
      held.delete(id);
      followSoon();
    }
  }

  function followSoon(): void {
    follow().catch((error) => {
      host.log.warn({ device: name, error: messageOf(error) }, 'suspended VMs are not woken by packets for now');
      return letGoWithRules();
    });
  }

  return {
    begin() {
      unsubscribe = stores.vms.onChange(({ before, after }) => {
        const concerns = [before, after].some((vm) => vm !== undefined && (sleepsUntilWanted(vm) || isOnItsWay(vm)));
        // packets that are held are sent on before the device goes
        if (concerns && !held.has((after ?? before)?.id ?? '')) followSoon();
      });
      // a device that an earlier daemon had went with it, its rules did not
      followSoon();
    },
    async close() {
      closed = true;
      unsubscribe();
      await letGoWithRules();
    },
  };
}

function addressesOf(vms: readonly VmRecord[]): string[] {
  return vms.map(({ address }) => address);
}

/** One that a person suspended waits for a person. */
function sleepsUntilWanted({ phase, idleSuspendMs }: VmRecord): boolean {
  return phase === 'suspended' && idleSuspendMs > 0;
}

function isOnItsWay({ phase, idleSuspendMs }: VmRecord): boolean {
  return phase === 'resuming' && idleSuspendMs > 0;
}
