/**
 * Does what users ask for: everything in it is derived from the user, the range and the id of a VM, and each device is
 * looked at for whose it is before it is touched. Requests of one user are done one at a time, those of others beside them.
 */
import { createHash } from 'node:crypto';
import { gatewayOf, parseSubnet, type Subnet } from '../core/addresses.ts';
import { tableName, vmOfTap } from '../core/network-names.ts';
import { hostMacFor, macFor, tapName } from '../core/vm.ts';
import { BangerError } from '../errors.ts';
import { LENT } from '../network/forwarding.ts';
import type { HelperGreeting, HelperRequest, RuleRequest, Scope } from '../network/helper-protocol.ts';
import { type FirewallRules, GUEST_DNS_PORT } from '../network/nftables.ts';
import type { NetworkPort, SeenRules } from '../network/port.ts';
import type { HostRoute, Way } from '../network/routes.ts';
import type { Tap } from '../network/tap.ts';
import { createMutex, type Mutex } from '../system/mutex.ts';
import { VERSION } from '../version.ts';
import { requireMembers, requireNoRoute, requirePool, requireUnclaimed, tooMany } from './claims.ts';
import { NO_RULES, type Realm, type User, type Users } from './users.ts';

/** What the helper sees of the host, without a right to it. */
export interface HostView {
  /** user who may open a device; undefined when there is no such device, or it is no tap of a user */
  tapOwner(device: string): number | undefined;
  /** names of all devices that could be VMs' */
  vmTaps(): string[];
  /** whether there is such a device, whatever it is */
  deviceExists(device: string): boolean;
  /** devices but those of VMs whose forwarding is lent */
  lentDevices(): string[];
  /** forwarding of a device; undefined when it is gone */
  forwarding(device: string): string | undefined;
  /** whether a user's process has this UDP port of 127.0.0.1 */
  ownsPort(uid: number, port: number): boolean;
  /** those that have a part of a range, and others near it */
  routes(pool: Subnet): Promise<HostRoute[]>;
  ways(): Promise<Way[]>;
  /** ranges of all bangers of the host that have VMs */
  poolsInUse(): Promise<string[]>;
}

export interface HelperOptions {
  port: NetworkPort;
  host: HostView;
  users: Users;
  /** VMs that a user may have at a time */
  vmLimit: number;
  /** ranges that users may have */
  pools: readonly Subnet[];
}

/** Stands in rules for what speaks for no address. */
const NO_ADDRESS = '0.0.0.0';

type Op<K extends HelperRequest['op']> = Extract<HelperRequest, { op: K }>;

export interface Helper {
  /**
   * @param uid who asks, as the kernel says
   * @throws BangerError for what this user may not have
   */
  handle(uid: number, request: HelperRequest): Promise<unknown>;
  /**
   * Writes rules anew that let nobody but VMs through a device whose forwarding somebody wants for more since.
   * @returns whether there are any such rules left to look after
   */
  mendWalls(): Promise<boolean>;
}

export function createHelper({ port, host, users, vmLimit, pools }: HelperOptions): Helper {
  const mutexes = new Map<number, Mutex>();
  // what the host shares is changed by one at a time
  const shared = createMutex();

  const mutexOf = (uid: number) => {
    const mutex = mutexes.get(uid) ?? createMutex();
    mutexes.set(uid, mutex);
    return mutex;
  };

  const ownerOfName = (vm: string): number | undefined => {
    for (const { uid, names } of users.all()) if (names.includes(vm)) return uid;
    return undefined;
  };

  const isThere = (user: User, vm: string) => host.tapOwner(tapName(vm)) === user.uid;

  const tapsOf = (user: User) => host.vmTaps().filter((device) => host.tapOwner(device) === user.uid);

  /** Devices that were made for this user and are no VM's any more, because taking one away failed. */
  function straysOf(user: User): string[] {
    const known = new Set([...user.realms.values()].flatMap(({ members }) => members.map(({ vm }) => vm)));
    return tapsOf(user).filter((device) => {
      const vm = vmOfTap(device) ?? '';
      return user.names.includes(vm) && !known.has(vm);
    });
  }

  /** The range of one banger: what it has, or what it gets now. */
  async function claim(user: User, { instance, pool: wanted }: Scope): Promise<Realm> {
    const pool = requirePool(wanted, pools);
    const known = user.realms.get(instance);
    if (known?.pool === wanted) return known;
    if (known?.members.some(({ vm }) => isThere(user, vm))) {
      throw new BangerError(
        'conflict',
        `The range cannot change from ${known.pool} to ${wanted} while VMs run in it.`,
        {
          hint: 'Stop them first: banger ls, then banger stop NAME',
        },
      );
    }
    const routes = await host.routes(pool);
    // from here on nothing is waited for: two users cannot both find it free
    requireUnclaimed(pool, user, instance, users.all());
    requireNoRoute(pool, routes, (device) => host.tapOwner(device) === user.uid);
    const realm = newRealm(instance, wanted);
    user.realms.set(instance, realm);
    return realm;
  }

  function findRealm(user: User, { instance, pool }: Scope): Realm | undefined {
    const realm = user.realms.get(instance);
    return realm?.pool === pool ? realm : undefined;
  }

  /** One that is there; what is asked about others is asked of nothing. */
  function realmOf(user: User, scope: Scope): Realm {
    const realm = findRealm(user, scope);
    if (realm) return realm;
    throw new BangerError('not_found', `This user has no VM in ${scope.pool} by the network helper.`, {
      hint: 'banger ls',
    });
  }

  /**
   * Rules for the devices that are there, and those of `coming`: a name without a device would be a rule about what another
   * user makes next.
   */
  function rulesOf(
    user: User,
    realm: Realm,
    { coming, going, lending }: { coming?: string; going?: string; lending?: string } = {},
  ): FirewallRules {
    const { canaryPort, guestDns, vmToVm, vmToHost } = realm.rules;
    const members = realm.members.filter(({ vm }) => vm === coming || isThere(user, vm));
    const strays = straysOf(user).filter((device) => going === undefined || device !== tapName(going));
    const lent = new Set(host.lentDevices());
    if (lending !== undefined) lent.add(lending);
    return {
      table: tableName(user.uid, realm.instance),
      members: [
        ...members.map(({ vm, address, nat, closed }) => ({ tap: tapName(vm), address, nat, closed })),
        ...strays.map((tap) => ({ tap, address: NO_ADDRESS, nat: false, closed: true })),
      ],
      ...{ vmToVm, vmToHost },
      guestDns: guestDns ? { gateway: gatewayOf(parseSubnet(realm.pool)), port: GUEST_DNS_PORT } : undefined,
      lent: members.length > 0 || strays.length > 0 || lending !== undefined ? [...lent].sort() : [],
      canaryPort,
    };
  }

  /** Takes over what is wanted. What still has a device stays, and nothing that comes from it gets anywhere. */
  async function keep(
    user: User,
    realm: Realm,
    { members, ...rules }: RuleRequest,
    { coming, going }: { coming?: string; going?: string } = {},
  ): Promise<void> {
    requireMembers(members, realm, user, vmLimit, ownerOfName);
    const forgotten = realm.members.filter(
      ({ vm }) => vm !== going && !members.some((member) => member.vm === vm) && isThere(user, vm),
    );
    // another one may have its address by now: what is closed speaks for none
    realm.members = [...members, ...forgotten.map((member) => ({ ...member, nat: false, closed: true }))];
    const isCanary = rules.canaryPort !== undefined && host.ownsPort(user.uid, rules.canaryPort);
    realm.rules = { ...rules, canaryPort: isCanary ? rules.canaryPort : undefined };
    for (const { vm } of members) {
      if ((vm === coming || isThere(user, vm)) && !user.names.includes(vm)) user.names.push(vm);
    }
    await users.save(user);
  }

  function tapOf(user: User, realm: Realm, { vm, mtu }: { vm: string; mtu: number }): Tap {
    const address = realm.members.find((member) => member.vm === vm)?.address;
    if (address === undefined)
      throw new BangerError('invalid_input', `The VM ${vm} is not among the VMs of its rules.`);
    return {
      ...{ name: tapName(vm), address, mtu, ownerUid: user.uid },
      mac: macFor(address),
      hostMac: hostMacFor(address),
      gateway: gatewayOf(parseSubnet(realm.pool)),
    };
  }

  /** @throws BangerError `conflict` when a device is there that is not this user's */
  function requireOwn(user: User, vm: string): void {
    const device = tapName(vm);
    if (!host.deviceExists(device) || host.tapOwner(device) === user.uid) return;
    throw new BangerError('conflict', `The network device ${device} is not this user's.`, {
      hint: `Whose it is: cat /sys/class/net/${device}/owner   Make the VM anew, with another id: banger create NAME`,
    });
  }

  /** @throws BangerError `conflict` when the user has as many devices as a user may, whatever they are for */
  function requireRoom(user: User, vm: string): void {
    const taps = tapsOf(user);
    if (taps.length < vmLimit || taps.includes(tapName(vm))) return;
    throw tooMany(vmLimit, taps.length + 1);
  }

  async function attach(user: User, request: Op<'attach'>): Promise<void> {
    const realm = await claim(user, request);
    requireOwn(user, request.vm);
    requireRoom(user, request.vm);
    await keep(user, realm, request.rules, { coming: request.vm });
    const tap = tapOf(user, realm, request);
    const rules = rulesOf(user, realm, { coming: request.vm });
    await withWalls(user, realm, rules, () => port.attach(tap, rules));
  }

  async function detach(user: User, request: Op<'detach'>): Promise<void> {
    requireOwn(user, request.vm);
    const vms = [request.vm, ...request.rules.members.map(({ vm }) => vm)];
    if (findRealm(user, request) === undefined && !vms.some((vm) => isThere(user, vm))) {
      return await detachNothing(user, request);
    }
    const realm = await claim(user, request);
    const rules = { ...request.rules, members: request.rules.members.filter(({ vm }) => vm !== request.vm) };
    await keep(user, realm, rules, { going: request.vm });
    const written = rulesOf(user, realm, { going: request.vm });
    await withWalls(user, realm, written, () => port.detach(tapName(request.vm), written));
  }

  /** Of what is gone at most rules are left. A range that was claimed for that would be kept from everybody else. */
  async function detachNothing(user: User, { instance, pool, vm }: Op<'detach'>): Promise<void> {
    // the table is that of another range by now
    if (user.realms.has(instance)) return;
    requirePool(pool, pools);
    await port.detach(tapName(vm), rulesOf(user, newRealm(instance, pool)));
  }

  async function poolRoute(user: User, request: Op<'pool-route'>): Promise<void> {
    const realm = await claim(user, request);
    await users.save(user);
    if (request.wanted) return await port.addPoolRoute(realm.pool);
    const isLast = user.realms.size === 1 && straysOf(user).length > 0;
    if (isLast || realm.members.some(({ vm }) => isThere(user, vm))) {
      throw new BangerError('conflict', `VMs run in ${realm.pool}.`, { hint: 'banger ls' });
    }
    await port.deletePoolRule(realm.pool);
    await port.deletePoolRoute(realm.pool);
    user.realms.delete(realm.instance);
    await users.save(user);
  }

  async function poolRule(user: User, request: Op<'pool-rule'>): Promise<void> {
    // it went with the range, which must not be claimed again for that
    if (!request.wanted && findRealm(user, request) === undefined) return;
    const realm = await claim(user, request);
    await users.save(user);
    await (request.wanted ? port.addPoolRule(realm.pool) : port.deletePoolRule(realm.pool));
  }

  async function forwarding(user: User, request: Op<'forwarding'>): Promise<void> {
    const { device, value } = request;
    const vm = vmOfTap(device);
    if (vm !== undefined) {
      requireOwn(user, vm);
      if (value !== '1') throw new BangerError('invalid_input', `Devices of VMs forward, ${device} too.`);
      if (host.deviceExists(device)) await port.setForwarding(device, value);
    } else if (value === LENT) await lend(user, request);
    else if (value === '0') await giveBack(user, device);
    else
      throw new BangerError(
        'invalid_input',
        `Forwarding of ${device} is only lent to VMs (${LENT}) and given back (0).`,
      );
  }

  async function lend(user: User, request: Op<'forwarding'>): Promise<void> {
    const { device } = request;
    const realm = await claim(user, request);
    await users.save(user);
    if (!(await host.ways()).some((way) => way.device === device)) {
      throw new BangerError('invalid_input', `No route of this host leads to ${device}.`);
    }
    // any other value is somebody's wish
    if (host.forwarding(device) !== '0') return;
    // the wall first: nobody but VMs gets through
    const rules = rulesOf(user, realm, { lending: device });
    await withWalls(user, realm, rules, () => port.writeRules(rules));
    await port.setForwarding(device, LENT);
  }

  async function giveBack(user: User, device: string): Promise<void> {
    if (host.forwarding(device) !== LENT) return;
    for (const other of users.all()) {
      for (const { members } of other.realms.values()) {
        if (members.some(({ vm }) => isThere(other, vm))) throw stillNeeded(device);
      }
    }
    const own = new Set([...user.realms.values()].map(({ pool }) => pool));
    if ((await host.poolsInUse()).some((pool) => !own.has(pool))) throw stillNeeded(device);
    await port.setForwarding(device, '0');
  }

  /** What the table has, as a number that says no more than that: whoever asks may compare it. */
  async function state(user: User, request: Op<'state'>): Promise<SeenRules | undefined> {
    const realm = findRealm(user, request);
    if (realm === undefined) return undefined;
    const seen = await port.readRules(rulesOf(user, realm));
    return seen && { text: createHash('sha256').update(seen.text).digest('hex'), whole: seen.whole };
  }

  /** Writes the rules of a realm, and down which devices they let nobody but VMs through. */
  async function withWalls(user: User, realm: Realm, rules: FirewallRules, write: () => Promise<void>): Promise<void> {
    const lent = [...(rules.lent ?? [])];
    const before = realm.walls;
    // until they are written, those before may still be there
    realm.walls = [...new Set([...before, ...lent])];
    await users.save(user);
    await write();
    realm.walls = lent;
    if (String(before) !== String(lent)) await users.save(user);
  }

  async function mendWalls(): Promise<boolean> {
    let areThere = false;
    for (const user of users.all()) {
      for (const { instance } of user.realms.values()) {
        await mutexOf(user.uid).run(async () => {
          const realm = user.realms.get(instance);
          if (!realm?.walls.length) return;
          areThere = true;
          const lent = host.lentDevices();
          if (realm.walls.every((device) => lent.includes(device))) return;
          const rules = rulesOf(user, realm);
          await withWalls(user, realm, rules, () => port.writeRules(rules));
        });
      }
    }
    return areThere;
  }

  async function carryOut(user: User, request: HelperRequest): Promise<unknown> {
    switch (request.op) {
      case 'hello':
        return { version: VERSION, vmLimit } satisfies HelperGreeting;
      case 'state':
        return await state(user, request);
      case 'attach':
        return await attach(user, request);
      case 'detach':
        return await detach(user, request);
      case 'rules': {
        const realm = await claim(user, request);
        await keep(user, realm, request.rules);
        const rules = rulesOf(user, realm);
        return await withWalls(user, realm, rules, () => port.writeRules(rules));
      }
      case 'set-up': {
        const realm = realmOf(user, request);
        const tap = tapOf(user, realm, request);
        if (!isThere(user, request.vm)) {
          throw new BangerError('not_found', `There is no network device ${tap.name}.`, {
            hint: 'banger restart NAME',
          });
        }
        return await port.setUpTap(tap);
      }
      case 'pool-route':
        return await poolRoute(user, request);
      case 'pool-rule':
        return await poolRule(user, request);
      case 'forwarding':
        return await shared.run(() => forwarding(user, request));
    }
  }

  return {
    mendWalls,
    async handle(uid, request) {
      if (uid === 0) throw new BangerError('invalid_input', "Root's daemon needs no helper.");
      const user = users.get(uid);
      // a greeting waits for nothing
      if (request.op === 'hello') return await carryOut(user, request);
      return await mutexOf(uid).run(() => carryOut(user, request));
    },
  };
}

function newRealm(instance: string, pool: string): Realm {
  return { instance, pool, members: [], rules: NO_RULES, walls: [] };
}

function stillNeeded(device: string): BangerError {
  return new BangerError('conflict', `VMs of this host still need the forwarding of ${device}.`, {
    hint: `It is given back when the last one stops. What it is now: sysctl net.ipv4.conf.${device}.forwarding`,
  });
}
