/** Rules of other programs that drop what VMs send or receive, each with the command that lets banger through. */
import { nextAddress, parseSubnet } from '../../core/addresses.ts';
import { SAMPLE_TAP } from '../../system/privileged-commands.ts';
import { asRoot } from '../fixes.ts';
import { evaluateForward, type Packet } from './evaluate.ts';
import type { FilterChain, Ruleset } from './ruleset.ts';

export interface ForwardDrop {
  /** who made the rules, e.g. `Docker`, or the chain where that cannot be told */
  culprit: string;
  /** which packets, e.g. `from VMs to eth0` */
  packets: string;
  chain: Pick<FilterChain, 'family' | 'table' | 'name'>;
  fix: string;
}

export interface ForwardPaths {
  /** nftables table of this banger, which is left out */
  ownTable: string;
  /** pool of the VMs, CIDR */
  pool: string;
  /** device that leads outside */
  uplink: string;
  uid: number;
}

/** The first drop in each direction; a drop that depends on what cannot be known is not reported. */
export function findForwardDrops(rulesets: readonly Ruleset[], paths: ForwardPaths): ForwardDrop[] {
  const vm = nextAddress(parseSubnet(paths.pool), []);
  const out: Packet = { from: SAMPLE_TAP, to: paths.uplink, source: vm, destination: undefined, state: 'new' };
  const back: Packet = { from: paths.uplink, to: SAMPLE_TAP, source: undefined, destination: vm, state: 'established' };
  const drops: ForwardDrop[] = [];
  for (const [packet, packets] of [
    [out, `from VMs to ${paths.uplink}`],
    [back, `from ${paths.uplink} back to VMs`],
  ] as const) {
    for (const ruleset of rulesets) {
      const { verdict, chain, visited } = evaluateForward(ruleset, packet, paths.ownTable);
      if (verdict !== 'drop' || chain === undefined) continue;
      if (drops.some((drop) => drop.chain.table === chain.table && drop.chain.name === chain.name)) continue;
      const { family, table, name } = chain;
      drops.push({ ...blame(chain, visited, ruleset.backend, paths), packets, chain: { family, table, name } });
    }
  }
  return drops;
}

/** Taps of VMs, in iptables' and in nft's spelling. */
const TAPS_IPTABLES = 'bgr-+';
const TAPS_NFT = '"bgr-*"';

function blame(
  { family, table, name }: FilterChain,
  visited: readonly string[],
  backend: Ruleset['backend'],
  { pool, uid }: ForwardPaths,
): Pick<ForwardDrop, 'culprit' | 'fix'> {
  const root = (command: string) => asRoot(command, uid);
  const iptables = backend === 'iptables-legacy' ? 'iptables-legacy' : 'iptables';
  const letThrough = (chain: string) =>
    [
      root(`${iptables} -I ${chain} -i ${TAPS_IPTABLES} -j ACCEPT`),
      root(`${iptables} -I ${chain} -o ${TAPS_IPTABLES} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT`),
    ].join(' && ');
  if (table === 'firewalld') {
    const add = root(`firewall-cmd --permanent --zone=trusted --add-source=${pool}`);
    return { culprit: 'firewalld', fix: `${add} && ${root('firewall-cmd --reload')}` };
  }
  // Docker calls this chain before its own rules and never touches what is in it
  if (visited.includes('DOCKER-USER')) return { culprit: 'Docker', fix: letThrough('DOCKER-USER') };
  if (visited.some((chain) => chain.startsWith('ufw-'))) {
    const allow = (direction: string) => root(`ufw route allow ${direction} on ${TAPS_IPTABLES}`);
    return { culprit: 'ufw', fix: `${allow('in')} && ${allow('out')}` };
  }
  if (backend === 'iptables-legacy' || (family === 'ip' && table === 'filter' && name === 'FORWARD')) {
    return { culprit: `the chain ${name} of ${iptables}`, fix: letThrough(name) };
  }
  const insert = (match: string) => root(`nft 'insert rule ${family} ${table} ${name} ${match} accept'`);
  return {
    culprit: `the nftables chain ${family} ${table} ${name}`,
    fix: `${insert(`iifname ${TAPS_NFT}`)} && ${insert(`oifname ${TAPS_NFT} ct state established,related`)}`,
  };
}
