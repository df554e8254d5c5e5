/**
 * The names of VMs that run or are suspended: one zone that follows the records, the server that answers for it on the host, and
 * the resolver that VMs ask on their gateway.
 */
import type { Config } from '../../config/schema.ts';
import { formatSubnet, gatewayOf, overlaps, parseAddress, type Subnet } from '../../core/addresses.ts';
import { hasGuest, type VmRecord } from '../../core/vm.ts';
import { GuestListener, type GuestListenerStatus } from '../../dns/guest-listener.ts';
import type { ListenerStatus } from '../../dns/listener.ts';
import { followResolvConf } from '../../dns/resolv-conf.ts';
import { DnsServer, type DnsServerStatus } from '../../dns/server.ts';
import { createZone, type Zone } from '../../dns/zone.ts';
import { messageOf } from '../../errors.ts';
import { GUEST_DNS_PORT } from '../../network/nftables.ts';
import type { Settings } from '../../state/settings.ts';
import type { VmStore } from '../../state/vms.ts';
import { findPortHolder } from '../../system/ports.ts';
import type { Log } from '../host.ts';

const SERIAL_KEY = 'dns.serial';

export interface DnsService extends AsyncDisposable {
  readonly zone: Zone;
  readonly server: DnsServerStatus;
  /** the resolver for VMs; it stands still until the first VM has a link, as there is no gateway before */
  readonly guests: GuestListenerStatus;
  /** Opens the port of the host; one that cannot be had is tried again for as long as it takes. */
  start(): Promise<void>;
  /** Makes the zone agree with the records again, should a change have been missed. */
  refresh(): void;
  /** Calls `listener` when somebody asks for the address of a VM that was suspended because nobody used it. */
  onWanted(listener: (name: string) => void): void;
  /** A VM got its link, so the gateway has its address. */
  linkUp(): void;
}

export interface DnsServiceDeps {
  config: Pick<Config, 'dns'>;
  pool: Subnet;
  vms: Pick<VmStore, 'list' | 'onChange'>;
  /** where the zone's serial is kept */
  settings: Settings;
  log: Log;
}

/** Follows the records from now on; nothing is opened before `start`. */
export function createDnsService({ config, pool, vms, settings, log }: DnsServiceDeps): DnsService {
  const { dns } = config;
  const gateway = gatewayOf(pool);
  let wanted = (_name: string): void => {};
  /** names of VMs that are suspended when idle, and are; made anew after any change of a record */
  let sleeping: Set<string> | undefined;
  const asleep = () => {
    sleeping ??= new Set(
      vms
        .list()
        .filter(sleepsWhenIdle)
        .map(({ name }) => name),
    );
    return sleeping;
  };
  const zone = createZone({
    zone: dns.zone,
    pools: [formatSubnet(pool)],
    ttlSeconds: dns.ttlSeconds,
    serverAddress: dns.address,
    probeAddress: gateway,
    previousSerial: Number(settings.get(SERIAL_KEY) ?? 0),
    onAsked: (name) => {
      if (asleep().has(name)) wanted(name);
    },
  });
  const server = new DnsServer({ zone, address: dns.address, port: dns.port, findHolder: findPortHolder });
  /** addresses of VMs without NAT; made anew after any change of a record */
  let closed: Set<string> | undefined;
  const withoutNat = () => {
    closed ??= new Set(vms.list().flatMap(({ nat, address }) => (nat ? [] : [address])));
    return closed;
  };
  const guests = new GuestListener({
    zone,
    address: gateway,
    port: GUEST_DNS_PORT,
    // packet rules let VMs alone through to this port, each with its own address
    isVm: (address) => address !== gateway && overlaps(pool, { base: parseAddress(address), prefix: 32 }),
    mayAskOutside: (address) => !withoutNat().has(address),
    upstreams: followResolvConf(),
    findHolder: findPortHolder,
  });
  const unfollow = vms.onChange(({ before, after }) => {
    closed = undefined;
    sleeping = undefined;
    if (apply(zone, before, after)) keepSerialSoon();
  });
  let started = false;
  let linked = false;
  let keeping: NodeJS.Immediate | undefined;

  /** Later, because the record may be changing in a transaction of another connection. */
  function keepSerialSoon(): void {
    keeping ??= setImmediate(() => {
      keeping = undefined;
      keepSerial();
    });
  }

  function keepSerial(): void {
    try {
      settings.set(SERIAL_KEY, String(zone.serial));
    } catch (error) {
      log.warn({ error: messageOf(error) }, "the zone's serial could not be kept");
    }
  }

  function warnIfWaiting(what: string, { state, lastError }: ListenerStatus): void {
    if (state === 'waiting')
      log.warn({}, `${what} are not answered yet: ${lastError?.message ?? 'no reason is known'}`);
  }

  async function openForGuests(): Promise<void> {
    if (guests.status.state !== 'stopped') return await guests.retryNow();
    await guests.start();
    warnIfWaiting('DNS queries of VMs', guests.status);
  }

  return {
    zone,
    get server() {
      return server.status;
    },
    get guests() {
      return guests.status;
    },
    async start() {
      started = true;
      if (zone.replace(runningVms(vms.list())) > 0) keepSerial();
      if (!dns.enabled) return;
      await server.start();
      warnIfWaiting('DNS queries of this host', server.status);
      // VMs that outlived the daemon before this one have their taps already
      if (linked || vms.list().some((vm) => vm.phase === 'running')) await openForGuests();
    },
    refresh() {
      const changes = zone.replace(runningVms(vms.list()));
      if (changes === 0) return;
      keepSerial();
      log.warn({ changes }, 'the zone did not agree with the records; made again');
    },
    onWanted(listener) {
      wanted = listener;
    },
    linkUp() {
      linked = true;
      if (!started || !dns.enabled) return;
      openForGuests().catch((error) => log.error({ error: messageOf(error) }, 'DNS queries of VMs are not answered'));
    },
    async [Symbol.asyncDispose]() {
      unfollow();
      clearImmediate(keeping);
      keepSerial();
      await Promise.all([server.stop(), guests.stop()]);
    },
  };
}

/** What a change of a record means for the zone; says whether the zone has changed. */
function apply(zone: Zone, before: VmRecord | undefined, after: VmRecord | undefined): boolean {
  const runs = after && hasGuest(after) ? after : undefined;
  // a name that a VM gives up goes first: another may be waiting for it
  const left = before && before.name !== runs?.name ? zone.delete(before.name) : false;
  return (runs ? zone.set(zoneVm(runs)) : false) || left;
}

/** One that a person suspended stays so: a name is asked for by what nobody looks at, too. */
function sleepsWhenIdle({ phase, idleSuspendMs }: VmRecord): boolean {
  return idleSuspendMs > 0 && (phase === 'suspended' || phase === 'suspending');
}

function runningVms(records: readonly VmRecord[]) {
  return records.filter(hasGuest).map(zoneVm);
}

function zoneVm({ name, address }: VmRecord) {
  return { name, ipv4: address };
}
