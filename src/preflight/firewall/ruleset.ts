/** The host's packet filter as data, from `nft -j list ruleset`; format: libnftables-json(5). */
import { BangerError } from '../../errors.ts';

/** One element of a rule, e.g. `{ match: … }` or `{ accept: null }`. */
export type Expression = Readonly<Record<string, unknown>>;

export interface FilterChain {
  /** `ip`, `inet`, … */
  family: string;
  table: string;
  name: string;
  /** set on chains the kernel calls by itself */
  hook: string | undefined;
  /** verdict at the end of a base chain */
  policy: 'accept' | 'drop';
  rules: Expression[][];
}

export interface Ruleset {
  chains: FilterChain[];
  /** elements of named sets, and entries of named maps, by `family table name` */
  sets: Map<string, unknown[]>;
  /** where it comes from, for messages: `nftables` or `iptables-legacy` */
  backend: 'nftables' | 'iptables-legacy';
}

interface NftItem {
  chain?: { family: string; table: string; name: string; hook?: string; policy?: string };
  rule?: { family: string; table: string; chain: string; expr?: Expression[] };
  set?: { family: string; table: string; name: string; elem?: unknown[] };
  map?: { family: string; table: string; name: string; elem?: unknown[] };
}

/** @throws BangerError `corrupt` when the text is not what nft prints */
export function parseNftRuleset(json: string): Ruleset {
  let items: NftItem[];
  try {
    items = (JSON.parse(json) as { nftables: NftItem[] }).nftables;
  } catch (error) {
    throw new BangerError('corrupt', '`nft -j list ruleset` printed something that is no ruleset.', { cause: error });
  }
  const ruleset: Ruleset = { chains: [], sets: new Map(), backend: 'nftables' };
  for (const { chain, set, map } of items) {
    if (chain) {
      const policy = chain.policy === 'drop' ? 'drop' : 'accept';
      ruleset.chains.push({ ...pick(chain), name: chain.name, hook: chain.hook, policy, rules: [] });
    }
    const named = set ?? map;
    if (named) ruleset.sets.set(setKey(named, named.name), named.elem ?? []);
  }
  for (const { rule } of items) {
    if (rule) findChain(ruleset, rule, rule.chain)?.rules.push(rule.expr ?? []);
  }
  return ruleset;
}

export function findChain(
  { chains }: Ruleset,
  { family, table }: { family: string; table: string },
  name: string,
): FilterChain | undefined {
  return chains.find((chain) => chain.family === family && chain.table === table && chain.name === name);
}

export function setKey({ family, table }: { family: string; table: string }, name: string): string {
  return `${family} ${table} ${name}`;
}

function pick({ family, table }: { family: string; table: string }): { family: string; table: string } {
  return { family, table };
}
