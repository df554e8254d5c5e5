/** The host's side of all VM links: taps, the firewall table, the pool's route and forwarding, kept in step. */
import type { Config } from '../config/schema.ts';
import { formatSubnet, gatewayOf, type Subnet } from '../core/addresses.ts';
import { tapName, type VmRecord } from '../core/vm.ts';
import { forwardingSetting, readSetting, writeSetting } from '../network/forwarding.ts';
import { appliedTaps, applyRules, type FirewallMember } from '../network/nftables.ts';
import { addPoolRoute, deletePoolRoute, findUplink, otherPoolsInUse } from '../network/routes.ts';
import { createTap, deleteTap, tapExists } from '../network/tap.ts';
import { HOST_OWNER, type Ledger } from '../state/ledger.ts';
import { createMutex } from '../system/mutex.ts';
import type { Privileged } from '../system/privilege.ts';
import type { Runner } from '../system/runner.ts';

export interface HostNetwork {
  /** Gives a VM its tap, address, route and firewall membership; each is in the ledger before it exists. */
  attach(vm: VmRecord): Promise<void>;
  /** Largest packet in bytes that leaves this host whole; links to guests use the same. */
  mtu(): Promise<number>;
  /** Takes all of it away again; what is gone already is no error. */
  detach(vm: Pick<VmRecord, 'id'>): Promise<void>;
  /** Makes the firewall agree with the VMs that are attached; returns whether it had to be changed. */
  reassert(): Promise<boolean>;
}

export interface HostNetworkDeps {
  config: Config;
  runner: Runner;
  privileged: Privileged;
  ledger: Ledger;
  /** every VM that may have a tap: those on record and those of image builds */
  guests: () => readonly VmRecord[];
  pool: Subnet;
  /** nftables table of this banger */
  table: string;
  uid: number;
}

/** Ethernet's usual payload; used when no uplink tells better. */
const DEFAULT_MTU = 1500;

export function createHostNetwork(deps: HostNetworkDeps): HostNetwork {
  const { ip, nft, sysctl } = deps.config.programs;
  const { privileged, ledger } = deps;
  const pool = formatSubnet(deps.pool);
  // the firewall table and the shared settings are rewritten as a whole: one change at a time
  const mutex = createMutex();

  const members = (leaving?: string): FirewallMember[] =>
    deps
      .guests()
      .filter((vm) => vm.id !== leaving && ledger.of(vm.id).some((resource) => resource.kind === 'tap'))
      .map((vm) => ({ tap: tapName(vm.id), address: vm.address, nat: vm.nat }));

  const writeRules = (leaving?: string) =>
    applyRules(privileged, nft, { table: deps.table, members: members(leaving), vmToVm: deps.config.network.vmToVm });

  async function enableForwarding(device: string): Promise<void> {
    const name = forwardingSetting(device);
    const before = await readSetting(name);
    if (before === undefined || before === '1') return;
    ledger.record(HOST_OWNER, { kind: 'sysctl', name, before });
    await writeSetting(privileged, sysctl, name, '1');
  }

  const uplinkNow = () => findUplink(deps.runner, ip, deps.config.network.uplink);
  const mtu = async () => (await uplinkNow())?.mtu ?? DEFAULT_MTU;

  async function claimHost(): Promise<void> {
    const uplink = await uplinkNow();
    if (!ledger.all().some(({ resource }) => resource.kind === 'pool-route')) {
      ledger.record(HOST_OWNER, { kind: 'pool-route', name: pool });
      await addPoolRoute(privileged, ip, pool);
    }
    if (uplink) await enableForwarding(uplink.device);
  }

  /** The host gets back what it had when the last VM has gone; of settings, when no other banger needs them. */
  async function releaseHost(): Promise<void> {
    for (const { owner, resource } of ledger.all()) {
      if (owner !== HOST_OWNER) continue;
      if (resource.kind === 'pool-route') await deletePoolRoute(privileged, ip, resource.name);
      else if (resource.kind === 'sysctl') {
        if (await otherPoolsInUse(deps.runner, ip, pool)) continue; // asked again at the next reconcile
        if ((await readSetting(resource.name)) === '1') {
          await writeSetting(privileged, sysctl, resource.name, resource.before);
        }
      } else continue;
      ledger.strike(resource.kind, resource.name);
    }
  }

  return {
    attach: (vm) =>
      mutex.run(async () => {
        const tap = tapName(vm.id);
        await claimHost();
        ledger.record(vm.id, { kind: 'tap', name: tap });
        // the rules first: the device must never be up without its anti-spoof entry
        await writeRules();
        await createTap(privileged, ip, {
          name: tap,
          address: vm.address,
          mac: vm.mac,
          gateway: gatewayOf(deps.pool),
          mtu: await mtu(),
          ownerUid: deps.uid,
        });
        await writeSetting(privileged, sysctl, forwardingSetting(tap), '1');
      }),
    mtu,

    detach: (vm) =>
      mutex.run(async () => {
        for (const resource of ledger.of(vm.id)) {
          if (resource.kind !== 'tap') continue;
          await deleteTap(privileged, ip, resource.name);
          await writeRules(vm.id);
          ledger.strike('tap', resource.name); // last, because it stands for the rules too
        }
        if (members().length === 0) await releaseHost();
      }),

    reassert: () =>
      mutex.run(async () => {
        const wanted = members().map((member) => member.tap);
        if (wanted.length === 0) {
          await releaseHost();
          return false;
        }
        const present = new Set(await appliedTaps(privileged, nft, deps.table));
        await claimHost();
        if (present.size === wanted.length && wanted.every((tap) => present.has(tap))) return false;
        await writeRules();
        return true;
      }),
  };
}

/** Whether a VM's tap is still there; a VM without its tap has no network. */
export function hasTap(vm: Pick<VmRecord, 'id'>): Promise<boolean> {
  return tapExists(tapName(vm.id));
}
