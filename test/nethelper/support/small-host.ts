/** A host as the helper sees it, with its devices, routes and rules in memory, and users who ask. */
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import { parseSubnet } from '../../../src/core/addresses.ts';
import { createHelper, type Helper, type HelperOptions, type HostView } from '../../../src/nethelper/helper.ts';
import { openUsers } from '../../../src/nethelper/users.ts';
import type { HelperRequest, RuleRequest } from '../../../src/network/helper-protocol.ts';
import { type FirewallRules, renderRules } from '../../../src/network/nftables.ts';
import type { NetworkPort } from '../../../src/network/port.ts';
import type { HostRoute } from '../../../src/network/routes.ts';
import { tempDir } from '../../support/temp-dir.ts';

export const POOL = '172.30.0.0/16';
export const OTHER_POOL = '172.29.0.0/16';

export class SmallHost {
  /** taps by name, with the user who may open each */
  readonly taps = new Map<string, number>();
  /** devices that are none of users */
  readonly devices = new Set(['eth0', 'wg0']);
  readonly forwarding = new Map([
    ['eth0', '0'],
    ['wg0', '0'],
  ]);
  /** rules by table, as they were last written */
  readonly tables = new Map<string, FirewallRules>();
  readonly routes: HostRoute[] = [];
  readonly pools = new Set<string>();
  /** `UID:PORT` of 127.0.0.1 */
  readonly ports = new Set<string>();
  /** what was changed, in order */
  readonly done: string[] = [];
  /** waited for before each change; may throw */
  gate: (what: string) => Promise<void> = async () => {};
  readonly journal: string;

  constructor(journal: string) {
    this.journal = journal;
  }

  static async create(t: TestContext): Promise<SmallHost> {
    const journal = join(await tempDir(t), 'journal');
    await mkdir(journal);
    return new SmallHost(journal);
  }

  /** A helper that begins with what the journal says. */
  helper(options: Partial<HelperOptions> = {}): Helper {
    return createHelper({
      port: this.port(),
      host: this.view(),
      users: openUsers(this.journal, (line) => this.done.push(line)),
      vmLimit: 4,
      pools: ['172.28.0.0/14', '10.128.0.0/10'].map(parseSubnet),
      ...options,
    });
  }

  view(): HostView {
    return {
      tapOwner: (device) => this.taps.get(device),
      vmTaps: () => [...this.taps.keys()],
      deviceExists: (device) => this.taps.has(device) || this.devices.has(device),
      lentDevices: () => [...this.forwarding].flatMap(([device, value]) => (value === '2' ? [device] : [])),
      forwarding: (device) => this.forwarding.get(device),
      ownsPort: (uid, port) => this.ports.has(`${uid}:${port}`),
      routes: async () => this.routes,
      ways: async () => [...this.forwarding.keys()].map((device) => ({ device, isDefault: device === 'eth0' })),
      poolsInUse: async () => [...this.pools],
    };
  }

  port(): NetworkPort {
    const change = async (what: string, how: () => void) => {
      await this.gate(what);
      how();
      this.done.push(what);
    };
    const write = async (rules: FirewallRules) =>
      await change(`rules ${rules.table} ${rules.members.map(({ tap }) => tap)}`, () => {
        if (rules.members.length + (rules.lent?.length ?? 0) > 0) this.tables.set(rules.table, rules);
        else this.tables.delete(rules.table);
      });
    return {
      attach: async (tap, rules) => {
        await write(await rules);
        await change(`tap ${tap.name} ${tap.address} ${tap.ownerUid}`, () => this.taps.set(tap.name, tap.ownerUid));
      },
      detach: async (name, rules) => {
        await change(`no tap ${name}`, () => this.taps.delete(name));
        await write(rules);
      },
      writeRules: write,
      readRules: async ({ table }) => {
        await this.gate('read');
        const rules = this.tables.get(table);
        return rules && { text: renderRules(rules), whole: true };
      },
      setUpTap: (tap) => change(`set up ${tap.name} ${tap.address}`, () => {}),
      addPoolRoute: (pool) => change(`route ${pool}`, () => this.pools.add(pool)),
      deletePoolRoute: (pool) => change(`no route ${pool}`, () => this.pools.delete(pool)),
      addPoolRule: (pool) => change(`rule ${pool}`, () => {}),
      deletePoolRule: (pool) => change(`no rule ${pool}`, () => {}),
      setForwarding: (device, value) => change(`forward ${device} ${value}`, () => this.forwarding.set(device, value)),
    };
  }
}

export function vmAt(number: number, pool = POOL) {
  const [a, b] = pool.split('.');
  return { vm: number.toString(16).padStart(8, '0'), address: `${a}.${b}.0.${number + 1}`, nat: true };
}

export function rules(members: RuleRequest['members'], more: Partial<RuleRequest> = {}): RuleRequest {
  return { members, vmToVm: true, vmToHost: false, guestDns: true, ...more };
}

export const scope = (pool = POOL, instance = '') => ({ pool, instance });

/** The request that gives the last of these VMs its link. */
export function attach(members: RuleRequest['members'], pool = POOL): HelperRequest {
  return { op: 'attach', ...scope(pool), vm: members.at(-1)?.vm ?? '', mtu: 1500, rules: rules(members) };
}

export function detach(vm: string, left: RuleRequest['members'], pool = POOL): HelperRequest {
  return { op: 'detach', ...scope(pool), vm, rules: rules(left) };
}
