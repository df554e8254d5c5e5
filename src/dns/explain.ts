/** Follows a name from a program's lookup to the record: which link holds, and which is the first that is broken. */
import { lookup as systemLookup } from 'node:dns/promises';
import { systemCode } from '../errors.ts';
import { exchange } from './exchange.ts';
import type { HostResolver } from './resolver-detect.ts';
import type { DnsServerStatus } from './server.ts';
import { nameToWire, RCODE, TYPE } from './wire.ts';
import { PROBE_LABEL, type Zone } from './zone.ts';

export interface ExplainedLink {
  link: 'name' | 'record' | 'listener' | 'resolver' | 'lookup';
  ok: boolean;
  /** what was found, as a sentence */
  message: string;
  /** next command when broken */
  hint?: string;
}

export interface ExplainOptions {
  /** name as the user typed it; a bare VM name is taken to be in the zone */
  name: string;
  zone: Zone;
  server: DnsServerStatus;
  resolver: HostResolver;
  /** whether the resolver has been told about the zone */
  setUp: boolean;
  /** addresses the system's resolver gives; getaddrinfo unless a test puts its own */
  lookup?: (name: string) => Promise<string[]>;
}

/** How long the listener gets to answer, in `ms`; it is on this host. */
const LISTENER_MS = 2000;

/** The links from the record outwards; everything after a broken one is left out, as it would only repeat it. */
export async function explainName(options: ExplainOptions): Promise<ExplainedLink[]> {
  const { zone, server, resolver } = options;
  const name = fullName(options.name, zone.name);
  const links: ExplainedLink[] = [];
  const follow = (link: ExplainedLink) => links.push(link) > 0 && link.ok;

  const inZone = name.endsWith(`.${zone.name}`);
  if (!inZone) {
    follow({
      link: 'name',
      ok: false,
      message: `${name} is not below ${zone.name}; bangerd has no say in it.`,
      hint: `Ask for a name such as web.${zone.name}`,
    });
    return links;
  }
  const label =
    name
      .slice(0, -zone.name.length - 1)
      .split('.')
      .at(-1) ?? '';
  const address = addressIn(zone, label);
  if (address === undefined) {
    const hint = 'See which VMs run: banger ls';
    follow({ link: 'record', ok: false, message: `There is no record: no running VM is named ${label}.`, hint });
    return links;
  }
  follow({ link: 'record', ok: true, message: `The zone has ${label}.${zone.name} at ${address}.` });
  if (!follow(await checkListener(server, name, address))) return links;
  const place = `${server.address} port ${server.port}`;
  const told: ExplainedLink = options.setUp
    ? { link: 'resolver', ok: true, message: `${resolver.reason} It has been told to ask ${place}.` }
    : {
        link: 'resolver',
        ok: false,
        message: `${resolver.reason} It has not been told to ask ${place} for ${zone.name}.`,
        hint: 'Tell it: banger dns setup',
      };
  if (!follow(told)) return links;
  follow(await checkLookup(name, address, resolver, options.lookup ?? getaddrinfo));
  return links;
}

async function checkListener(server: DnsServerStatus, name: string, address: string): Promise<ExplainedLink> {
  const place = `${server.address} port ${server.port}`;
  if (server.state !== 'listening') {
    const why = server.lastError?.message ?? 'It was not started.';
    const hint = 'Free the port, or set another one with dns.port; bangerd tries again by itself';
    return { link: 'listener', ok: false, message: `bangerd does not listen on ${place}. ${why}`, hint };
  }
  try {
    const response = await exchange(
      addressQuery(name, address),
      { address: server.address, port: server.port },
      { transport: 'udp', signal: AbortSignal.timeout(LISTENER_MS) },
    );
    if ((response.readUInt8(3) & 0xf) === RCODE.NOERROR && response.readUInt16BE(6) > 0) {
      return { link: 'listener', ok: true, message: `bangerd answers for it on ${place}.` };
    }
  } catch {
    // no answer is told like a wrong one
  }
  const hint =
    'Look for a firewall rule on loopback, or stop the daemon, which the next command starts again: banger daemon stop';
  return { link: 'listener', ok: false, message: `A query to ${place} did not bring the record back.`, hint };
}

async function checkLookup(
  name: string,
  address: string,
  resolver: HostResolver,
  lookup: (name: string) => Promise<string[]>,
): Promise<ExplainedLink> {
  const found = await lookup(name).catch((error: unknown) => systemCode(error) ?? 'an error');
  if (Array.isArray(found) && found.includes(address)) {
    return { link: 'lookup', ok: true, message: `Programs on this host find ${name} at ${address}.` };
  }
  const said = Array.isArray(found) ? found.join(', ') : found;
  return {
    link: 'lookup',
    ok: false,
    message: `Programs on this host do not find it: getaddrinfo says ${said}.`,
    hint: `${resolver.kind} may not have read its new files, or /etc/hosts has the name. Write them again: banger dns setup`,
  };
}

function fullName(typed: string, zone: string): string {
  const name = typed.toLowerCase().replace(/\.$/, '');
  return name.includes('.') ? name : `${name}.${zone}`;
}

function addressIn(zone: Zone, label: string): string | undefined {
  if (label === PROBE_LABEL) {
    return zone.records().find((record) => record.name === `${PROBE_LABEL}.${zone.name}`)?.data;
  }
  const vm = zone.get(label);
  return vm?.ipv4 ?? vm?.ipv6;
}

function addressQuery(name: string, address: string): Buffer {
  const header = Buffer.from([0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
  const question = Buffer.from([0, address.includes(':') ? TYPE.AAAA : TYPE.A, 0, 1]);
  return Buffer.concat([header, nameToWire(name), question]);
}

async function getaddrinfo(name: string): Promise<string[]> {
  return (await systemLookup(name, { all: true })).map(({ address }) => address);
}
