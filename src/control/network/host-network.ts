/** The host's side of all VM links: taps, the firewall table, the pool's route and forwarding, kept in step. */
import type { Config } from '../../config/schema.ts';
import { formatSubnet, gatewayOf, type Subnet } from '../../core/addresses.ts';
import { hostMacFor, tapName, type VmRecord } from '../../core/vm.ts';
import type { Canary } from '../../network/canary.ts';
import { followHostChanges, type HostChanges } from '../../network/changes.ts';
import { findDrift, type Link } from '../../network/drift.ts';
import { forwardingSetting, LENT, readSetting } from '../../network/forwarding.ts';
import type { FirewallMember, FirewallRules, GuestDns } from '../../network/nftables.ts';
import type { NetworkPort } from '../../network/port.ts';
import { findUplink, findWays, otherPoolsInUse, type RuleState, readRules, type Way } from '../../network/routes.ts';
import type { Tap } from '../../network/tap.ts';
import { HOST_OWNER, type Ledger, type Resource } from '../../state/ledger.ts';
import { createMutex } from '../../system/mutex.ts';
import type { Runner } from '../../system/runner.ts';
import type { HostNetwork, Mended } from '../host.ts';

export interface HostNetworkDeps {
  config: Config;
  runner: Runner;
  /** changes what takes a right to change */
  port: NetworkPort;
  ledger: Ledger;
  /** every VM that may have a tap: those on record and those of image builds */
  guests: () => readonly VmRecord[];
  pool: Subnet;
  /** nftables table of this banger */
  table: string;
  uid: number;
  /** where DNS queries of VMs are answered; absent when they are not */
  guestDns?: GuestDns | undefined;
  /** called after a VM got its tap, and so the gateway its address */
  onAttach?: () => void;
  /** device that VMs which are asleep are routed to; it is in the ledger from before it is made until it is gone */
  sleepDevice?: string | undefined;
  /** tells whether the table is there to a daemon that does not hear of rules */
  canary?: Canary | undefined;
  /** told of a device behind which VMs reach nothing */
  onNoForwarding?: (device: string, error: unknown) => void;
  /** how changes of the host become known */
  followChanges?: (table: string) => Promise<HostChanges>;
}

/** Ethernet's usual payload; used when no uplink tells better. */
const DEFAULT_MTU = 1500;

/** How long the kernel's word is taken for it that nothing changed. */
const FULL_LOOK_MS = 300_000;
/** The same of a canary, which only tells whether the whole table is there. */
const CANARY_LOOK_MS = 60_000;

/** An uplink keeps its MTU for longer than a start takes. */
const MTU_BELIEF_MS = 1000;

/** How often rules are written that somebody takes away at once; the next round goes on with it. */
const WRITE_TRIES = 3;

const NOTHING_MENDED: Mended = { rules: false, routes: [], goneTaps: [] };

export function createHostNetwork(deps: HostNetworkDeps): HostNetwork {
  const { ip } = deps.config.programs;
  const { ledger, port } = deps;
  const pool = formatSubnet(deps.pool);
  // the firewall table and the shared settings are rewritten as a whole: one change at a time
  const mutex = createMutex();

  const members = (leaving?: string): FirewallMember[] =>
    deps.guests().flatMap((vm) => {
      const tap = ledger.of(vm.id).find((resource) => resource.kind === 'tap');
      if (vm.id === leaving || tap?.kind !== 'tap') return [];
      return [{ tap: tap.name, address: vm.address, nat: vm.nat, closed: tap.closed }];
    });

  /** Whether VMs that are asleep have their device: the rules say who may wake them, also when no VM runs. */
  const sleepersAreLed = () =>
    ledger.of(HOST_OWNER).some(({ kind, name }) => kind === 'tap' && name === deps.sleepDevice);

  /** devices the rules let nobody but VMs through, as they were last written */
  let walled = '';

  /** the table as the kernel showed it after it was written; unknown to a daemon that has not written it yet */
  let written: string | undefined;

  let changes: HostChanges | undefined;
  /** what must be looked at: a change stays here until a look at it has ended well */
  const doubt = { rules: true, links: true, shared: true };
  let lastFullLook = Number.NEGATIVE_INFINITY;
  let lastRulesLook = Number.NEGATIVE_INFINITY;

  const rulesAreDoubtful = () => doubt.rules || written === undefined;

  /** Notes what changed on the host since the last call. */
  async function listen(): Promise<void> {
    const heard = changes?.take();
    changes ??= await (deps.followChanges ?? followHostChanges)(deps.table);
    const now = performance.now();
    const full = !heard || now - lastFullLook >= FULL_LOOK_MS;
    if (full) lastFullLook = now;
    if (full || (heard.rules && (await rulesMayBeGone(now)))) {
      doubt.rules = true;
      lastRulesLook = now;
    }
    if (full || heard.links) doubt.links = doubt.shared = true;
  }

  /** What is heard is true; what is not heard of is asked the canary, and looked at now and then. */
  async function rulesMayBeGone(now: number): Promise<boolean> {
    if (changes?.hearsRules || !deps.canary || now - lastRulesLook >= CANARY_LOOK_MS) return true;
    return await deps.canary.arrives();
  }

  /** Nothing is attached any more, so nobody looks. */
  function stopListening(): void {
    changes?.[Symbol.dispose]();
    changes = undefined;
  }

  const rulesFor = async (leaving?: string): Promise<FirewallRules> => {
    const attached = members(leaving);
    return {
      table: deps.table,
      members: attached,
      vmToVm: deps.config.network.vmToVm,
      vmToHost: deps.config.network.vmToHost,
      guestDns: deps.guestDns,
      // without VMs forwarding is about to be given back
      lent: attached.length > 0 ? await lentDevices() : [],
      canaryPort: deps.canary?.port,
      sleepDevice: attached.length > 0 || sleepersAreLed() ? deps.sleepDevice : undefined,
    };
  };

  async function writeRules(leaving?: string): Promise<void> {
    written = undefined;
    const rules = await rulesFor(leaving);
    await port.writeRules(rules);
    walled = String(rules.lent);
  }

  /** Whether the table had to be written: anybody may have flushed it, or only parts of it. */
  async function mendRules(): Promise<boolean> {
    const present = (await port.readRules(await rulesFor()))?.text;
    if (present !== undefined && present === written) return false;
    // what stands there was either never compared or is not what was written
    const first = written === undefined && present !== undefined;
    written = undefined;
    for (let tries = 0; written === undefined && tries < WRITE_TRIES; tries++) {
      await writeRules();
      const seen = await port.readRules(await rulesFor());
      // whoever flushes again and again may have done so before it was read: that is not to be compared with from now on
      if (seen?.whole) written = seen.text;
    }
    return !(first && present === written);
  }

  const tapOf = async (vm: Pick<VmRecord, 'id' | 'address' | 'mac' | 'user'>): Promise<Tap> => ({
    name: tapName(vm.id),
    address: vm.address,
    mac: vm.mac,
    hostMac: hostMacFor(vm.address),
    gateway: gatewayOf(deps.pool),
    mtu: await mtu(),
    ownerUid: vm.user ?? deps.uid,
  });

  async function mendRoutes(): Promise<Pick<Mended, 'routes' | 'goneTaps'>> {
    const links: Link[] = members();
    const drift = await findDrift(links, pool);
    if (drift.poolRouteLost) await port.addPoolRoute(pool);
    for (const { tap } of drift.lostRoutes) {
      const vm = deps.guests().find(({ id }) => tapName(id) === tap);
      if (vm) await port.setUpTap(await tapOf(vm));
    }
    // whoever sets net.ipv4.ip_forward sets every device's own switch too
    for (const { tap } of links) {
      if ((await readSetting(forwardingSetting(tap))) === '0') await port.setForwarding(tap, '1');
    }
    const routes = [...(drift.poolRouteLost ? [pool] : []), ...drift.lostRoutes.map(({ tap }) => tap)];
    return { routes, goneTaps: drift.goneTaps };
  }

  async function mendDoubtful(): Promise<Mended> {
    const mended = { ...NOTHING_MENDED };
    if (doubt.shared) await claimHost();
    doubt.shared = false;
    if (rulesAreDoubtful()) {
      mended.rules = await mendRules();
      doubt.rules = false;
    }
    if (doubt.links) {
      Object.assign(mended, await mendRoutes());
      // one that is gone is told of until somebody did something about it
      doubt.links = mended.goneTaps.length > 0;
    }
    return mended;
  }

  /** Without VMs that run the host needs nothing but the wall before those that sleep. */
  async function mendWall(): Promise<Mended> {
    const rules = rulesAreDoubtful() && (await mendRules());
    doubt.rules = false;
    return { ...NOTHING_MENDED, rules };
  }

  /** Devices whose forwarding is on, or about to be, only because VMs need it. */
  async function lentDevices(): Promise<string[]> {
    const lent: string[] = [];
    for (const { resource } of ledger.all()) {
      if (resource.kind !== 'sysctl' || resource.set !== LENT) continue;
      // whoever wrote 1 since wants it for more than VMs
      if ((await readSetting(resource.name)) !== '1') lent.push(deviceOf(resource.name));
    }
    return lent.sort();
  }

  /** Switches forwarding on wherever the host's routes lead: answers come in there. */
  async function lendForwarding(found: Promise<Way[]>): Promise<void> {
    const { uplink } = deps.config.network;
    const ways = [...(await found)];
    if (uplink !== 'auto') ways.push({ device: uplink, isDefault: true });
    const off: typeof ways = [];
    for (const way of ways) {
      const name = forwardingSetting(way.device);
      const before = await readSetting(name);
      // another banger's doing is this one's too: the last of them puts it back
      if (before !== '0' && before !== LENT) continue;
      ledger.record(HOST_OWNER, { kind: 'sysctl', name, before: '0', set: LENT });
      if (before === '0') off.push(way);
    }
    // the wall first: nobody but VMs gets through meanwhile
    if (members().length > 0 && String(await lentDevices()) !== walled) await writeRules();
    for (const { device, isDefault } of off) {
      try {
        await port.setForwarding(device, LENT);
      } catch (error) {
        if (isDefault) throw error;
        deps.onNoForwarding?.(device, error);
      }
    }
  }

  /** Rules of others may lead packets to VMs elsewhere; without any the host is left without one of banger's. */
  async function claimRules(listed: Promise<RuleState>): Promise<void> {
    const { others, own } = await listed;
    if (!others || own) return;
    ledger.record(HOST_OWNER, { kind: 'pool-rule', name: pool });
    await port.addPoolRule(pool);
  }

  let measured: { mtu: Promise<number>; until: number } | undefined;
  /** Asked for several times in each start. */
  const mtu = () => {
    if (measured && performance.now() < measured.until) return measured.mtu;
    const uplink = findUplink(deps.runner, ip, deps.config.network.uplink);
    measured = { mtu: uplink.then((found) => found?.mtu ?? DEFAULT_MTU), until: performance.now() + MTU_BELIEF_MS };
    measured.mtu.catch(() => {
      measured = undefined;
    });
    return measured.mtu;
  };

  async function claimHost(): Promise<void> {
    // listed beside the rest: nothing of that changes what they are
    const ways = findWays(deps.runner, ip);
    const rules = readRules(deps.runner, ip, pool);
    for (const listed of [ways, rules]) listed.catch(() => {});
    if (!ledger.all().some(({ resource }) => resource.kind === 'pool-route')) {
      ledger.record(HOST_OWNER, { kind: 'pool-route', name: pool });
      await port.addPoolRoute(pool);
    }
    await claimRules(rules);
    await lendForwarding(ways);
  }

  /** The host gets back what it had when the last VM has gone; of settings, when no other banger needs them. */
  async function releaseHost(): Promise<void> {
    const own = ledger.all().flatMap(({ owner, resource }) => (owner === HOST_OWNER ? [resource] : []));
    const isLent = own.some(({ kind }) => kind === 'sysctl');
    const shared = isLent ? otherPoolsInUse(deps.runner, ip, pool) : Promise.resolve(false);
    const giveBack = async (resource: Resource): Promise<boolean> => {
      if (resource.kind === 'pool-route') await port.deletePoolRoute(resource.name);
      else if (resource.kind === 'pool-rule') await port.deletePoolRule(resource.name);
      else if (resource.kind === 'sysctl') {
        if (await shared) return false; // asked again at the next reconcile
        if ((await readSetting(resource.name)) === (resource.set ?? '1')) {
          await port.setForwarding(deviceOf(resource.name), resource.before);
        }
      } else return false;
      return true;
    };
    await inParallel(own, async (resource) => {
      if (await giveBack(resource)) ledger.strike(resource.kind, resource.name);
    });
  }

  return {
    pool: deps.pool,
    attach: (vm, { closed = false } = {}) =>
      mutex.run(async () => {
        const tap = tapName(vm.id);
        ledger.record(vm.id, { kind: 'tap', name: tap, ...(closed ? { closed } : {}) });
        const rules = claimHost().then(() => {
          written = undefined;
          return rulesFor();
        });
        // nothing of it goes on when this has ended, whatever failed first
        const claimed = rules.catch(() => {});
        try {
          await port.attach(await tapOf(vm), rules);
        } finally {
          await claimed;
        }
        walled = String((await rules).lent);
        deps.onAttach?.();
      }),
    open: (vm) =>
      mutex.run(async () => {
        ledger.record(vm.id, { kind: 'tap', name: tapName(vm.id) });
        await writeRules();
      }),
    mtu,

    detach: (vm) =>
      mutex.run(async () => {
        for (const resource of ledger.of(vm.id)) {
          if (resource.kind !== 'tap') continue;
          written = undefined;
          const rules = await rulesFor(vm.id);
          await port.detach(resource.name, rules);
          walled = String(rules.lent);
          ledger.strike('tap', resource.name); // last, because it stands for the rules too
        }
        if (members().length > 0) return;
        if (!sleepersAreLed()) stopListening();
        await releaseHost();
      }),

    mend: () =>
      mutex.run(async () => {
        await listen();
        if (!rulesAreDoubtful() && !doubt.links && !doubt.shared) return NOTHING_MENDED;
        if (members().length > 0) return await mendDoubtful();
        return sleepersAreLed() ? await mendWall() : NOTHING_MENDED;
      }),

    reassert: () =>
      mutex.run(async () => {
        if (members().length > 0) {
          await listen();
          return await mendDoubtful();
        }
        const led = sleepersAreLed();
        if (!led) stopListening();
        await releaseHost();
        if (!led) return NOTHING_MENDED;
        await listen();
        return await mendWall();
      }),

    rewrite: () =>
      mutex.run(async () => {
        if (members().length > 0) await writeRules();
      }),

    alone: (work) => mutex.run(() => work(() => writeRules())),
  };
}

/** All of it is begun; what failed first is thrown when all have ended. */
async function inParallel<T>(items: readonly T[], work: (item: T) => Promise<void>): Promise<void> {
  for (const outcome of await Promise.allSettled(items.map(work))) {
    if (outcome.status === 'rejected') throw outcome.reason;
  }
}

/** Device of a forwarding switch. */
function deviceOf(setting: string): string {
  return setting.split('/')[3] ?? '';
}
