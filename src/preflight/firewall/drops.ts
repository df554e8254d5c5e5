/** Rules of other programs that drop what VMs send or receive, each with the command that lets banger through. */
import { gatewayOf, nextAddress, parseSubnet } from '../../core/addresses.ts';
import { SAMPLE_TAP } from '../../system/privileged-commands.ts';
import { asRoot } from '../fixes.ts';
import { evaluatePacket, type Packet } from './evaluate.ts';
import type { FilterChain, Ruleset } from './ruleset.ts';

export interface Drop {
  /** who made the rules, e.g. `Docker`, or the chain where that cannot be told */
  culprit: string;
  /** which packets, e.g. `from VMs to eth0` */
  packets: string;
  chain: Pick<FilterChain, 'family' | 'table' | 'name'>;
  fix: string;
}

export interface Paths {
  /** nftables table of this banger, which is left out */
  ownTable: string;
  /** pool of the VMs, CIDR */
  pool: string;
  uid: number;
}

/** A destination port no firewall opens by name. */
const SOME_PORT = 47_113;

/**
 * Forwarded packets: the first drop in each direction; one that depends on what cannot be known is not reported.
 * @param uplink device that leads outside
 */
export function findForwardDrops(rulesets: readonly Ruleset[], paths: Paths & { uplink: string }): Drop[] {
  const { uplink } = paths;
  const vm = nextAddress(parseSubnet(paths.pool), []);
  const packet = { hook: 'forward', protocol: 'tcp', port: SOME_PORT, translated: false } as const;
  const out: Packet = {
    ...packet,
    ...{ from: SAMPLE_TAP, to: uplink, source: vm, destination: undefined, state: 'new' },
  };
  const back: Packet = {
    ...packet,
    ...{ from: uplink, to: SAMPLE_TAP, source: undefined, destination: vm, state: 'established' },
  };
  return findDrops(rulesets, paths, [
    [out, `from VMs to ${uplink}`, forwardFix],
    [back, `from ${uplink} back to VMs`, forwardFix],
  ]);
}

/**
 * What VMs ask this host for names: the rules of this banger lead it to `port` of the gateway.
 * @param port UDP and TCP
 */
export function findNameDrops(rulesets: readonly Ruleset[], paths: Paths & { port: number }): Drop[] {
  const pool = parseSubnet(paths.pool);
  const packet = {
    hook: 'input',
    port: paths.port,
    translated: true,
    ...{ from: SAMPLE_TAP, to: undefined, source: nextAddress(pool, []), destination: gatewayOf(pool) },
    state: 'new',
  } as const;
  return findDrops(rulesets, paths, [
    [{ ...packet, protocol: 'udp' }, 'by which VMs ask for names', inputFix(paths.port)],
    [{ ...packet, protocol: 'tcp' }, 'by which VMs ask for names over TCP', inputFix(paths.port)],
  ]);
}

function findDrops(
  rulesets: readonly Ruleset[],
  paths: Paths,
  ways: readonly (readonly [packet: Packet, packets: string, fix: Fixer])[],
): Drop[] {
  const drops: Drop[] = [];
  for (const [packet, packets, fix] of ways) {
    for (const ruleset of rulesets) {
      const { verdict, chain, visited } = evaluatePacket(ruleset, packet, paths.ownTable);
      if (verdict !== 'drop' || chain === undefined) continue;
      if (drops.some((drop) => drop.chain.table === chain.table && drop.chain.name === chain.name)) continue;
      const { family, table, name } = chain;
      const program = programOf(chain, visited, ruleset.backend);
      drops.push({
        ...{ culprit: nameOf(program, chain, ruleset.backend), packets, chain: { family, table, name } },
        fix: fix(program, chain, ruleset.backend, paths),
      });
    }
  }
  return drops;
}

/** Taps of VMs, in iptables' and in nft's spelling. */
const TAPS_IPTABLES = 'bgr-+';
const TAPS_NFT = '"bgr-*"';

type Program = 'firewalld' | 'Docker' | 'ufw' | 'iptables' | 'nft';

/** Who made a chain, by its names. */
function programOf(
  { family, table, name, hook }: FilterChain,
  visited: readonly string[],
  backend: Ruleset['backend'],
): Program {
  if (table === 'firewalld') return 'firewalld';
  // Docker calls this chain before its own rules and never touches what is in it
  if (visited.includes('DOCKER-USER')) return 'Docker';
  if (visited.some((chain) => chain.startsWith('ufw-'))) return 'ufw';
  const isIptables = family === 'ip' && table === 'filter' && name === hook?.toUpperCase();
  return backend === 'iptables-legacy' || isIptables ? 'iptables' : 'nft';
}

function nameOf(program: Program, { family, table, name }: FilterChain, backend: Ruleset['backend']): string {
  if (program === 'iptables') return `the chain ${name} of ${iptablesOf(backend)}`;
  return program === 'nft' ? `the nftables chain ${family} ${table} ${name}` : program;
}

/** The command that lets packets through a chain of a program. */
type Fixer = (program: Program, chain: FilterChain, backend: Ruleset['backend'], paths: Paths) => string;

const forwardFix: Fixer = (program, { family, table, name }, backend, { pool, uid }) => {
  const root = (command: string) => asRoot(command, uid);
  switch (program) {
    case 'firewalld':
      return trustPool(pool, uid);
    case 'ufw':
      return ['in', 'out'].map((direction) => root(`ufw route allow ${direction} on ${TAPS_IPTABLES}`)).join(' && ');
    case 'Docker':
    case 'iptables': {
      const chain = program === 'Docker' ? 'DOCKER-USER' : name;
      const insert = (rule: string) => root(`${iptablesOf(backend)} -I ${chain} ${rule} -j ACCEPT`);
      const replies = `-o ${TAPS_IPTABLES} -m conntrack --ctstate RELATED,ESTABLISHED`;
      return `${insert(`-i ${TAPS_IPTABLES}`)} && ${insert(replies)}`;
    }
    case 'nft': {
      const insert = (match: string) => root(`nft 'insert rule ${family} ${table} ${name} ${match} accept'`);
      return `${insert(`iifname ${TAPS_NFT}`)} && ${insert(`oifname ${TAPS_NFT} ct state established,related`)}`;
    }
  }
};

const inputFix =
  (port: number): Fixer =>
  (program, { family, table, name }, backend, { pool, uid }) => {
    const root = (command: string) => asRoot(command, uid);
    switch (program) {
      case 'firewalld':
        return trustPool(pool, uid);
      case 'ufw':
        return root(`ufw allow in on ${TAPS_IPTABLES} to any port ${port}`);
      case 'Docker':
      case 'iptables': {
        const insert = (protocol: string) =>
          root(`${iptablesOf(backend)} -I ${name} -i ${TAPS_IPTABLES} -p ${protocol} --dport ${port} -j ACCEPT`);
        return `${insert('udp')} && ${insert('tcp')}`;
      }
      case 'nft':
        return root(
          `nft 'insert rule ${family} ${table} ${name} iifname ${TAPS_NFT} meta l4proto { tcp, udp } th dport ${port} accept'`,
        );
    }
  };

function trustPool(pool: string, uid: number): string {
  const add = asRoot(`firewall-cmd --permanent --zone=trusted --add-source=${pool}`, uid);
  return `${add} && ${asRoot('firewall-cmd --reload', uid)}`;
}

function iptablesOf(backend: Ruleset['backend']): string {
  return backend === 'iptables-legacy' ? 'iptables-legacy' : 'iptables';
}
