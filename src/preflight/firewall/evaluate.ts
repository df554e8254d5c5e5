/**
 * What becomes of a packet under a host's rules. Three answers: what cannot be known from the rules
 * (rate limits, marks, …) is `unknown` and never reported as a drop.
 */
import { overlaps, parseAddress, parseSubnet, type Subnet } from '../../core/addresses.ts';
import { type Expression, type FilterChain, findChain, type Ruleset, setKey } from './ruleset.ts';

export interface Packet {
  /** forwarded, or for this host itself */
  hook: 'forward' | 'input';
  protocol: 'tcp' | 'udp';
  /** destination port */
  port: number;
  /** its destination was changed by this host's own rules */
  translated: boolean;
  /** device it comes in by */
  from: string;
  /** device it leaves by; undefined when it stays */
  to: string | undefined;
  /** IPv4 addresses; undefined for some address of the outside */
  source: string | undefined;
  destination: string | undefined;
  state: 'new' | 'established';
}

export interface Fate {
  verdict: 'accept' | 'drop' | 'unknown';
  /** base chain that dropped it */
  chain: FilterChain | undefined;
  /** every chain on the way to the drop, by name */
  visited: string[];
}

/** Does it hold? `undefined`: cannot be known. */
type Truth = boolean | undefined;

/** IPPROTO_* of linux/in.h. */
const NUMBERS = { tcp: 6, udp: 17 } as const;

/** Rules do not nest deeper: nftables' own limit (NFT_JUMP_STACK_SIZE). */
const MAX_DEPTH = 16;

/** A packet goes on when every chain at its hook accepts it, whatever table it is in. */
export function evaluatePacket(ruleset: Ruleset, packet: Packet, ownTable: string): Fate {
  const visited: string[] = [];
  let verdict: Fate['verdict'] = 'accept';
  for (const chain of ruleset.chains) {
    if (chain.hook !== packet.hook || !['ip', 'inet'].includes(chain.family) || chain.table === ownTable) continue;
    const walk = new Walk(ruleset, packet);
    const end = walk.chain(chain, 0);
    const final = end === 'accept' || end === 'drop' ? end : chain.policy;
    visited.push(...walk.visited);
    if (final === 'accept') continue;
    // a rule that may have accepted it before makes the drop uncertain
    if (!walk.maybeAccepted) return { verdict: 'drop', chain, visited };
    verdict = 'unknown';
  }
  return { verdict, chain: undefined, visited };
}

type Step = 'accept' | 'drop' | 'return' | 'continue';

class Walk {
  maybeAccepted = false;
  readonly visited: string[] = [];
  readonly #ruleset: Ruleset;
  readonly #packet: Packet;

  constructor(ruleset: Ruleset, packet: Packet) {
    this.#ruleset = ruleset;
    this.#packet = packet;
  }

  chain(chain: FilterChain, depth: number): Step {
    this.visited.push(chain.name);
    if (depth > MAX_DEPTH) return 'continue';
    for (const rule of chain.rules) {
      const step = this.#rule(chain, rule, depth);
      if (step === 'return') return 'continue';
      if (step !== 'continue') return step;
    }
    return 'continue';
  }

  #rule(chain: FilterChain, rule: Expression[], depth: number): Step {
    let truth: Truth = true;
    for (const expression of rule) {
      const held = holds(expression, rule, this.#packet, (name) => this.#elements(chain, name));
      if (held === false) return 'continue';
      if (held === undefined) truth = undefined;
    }
    for (const expression of rule) {
      const step = this.#statement(chain, expression, depth, truth);
      if (step !== 'continue') return step;
    }
    return 'continue';
  }

  #statement(chain: FilterChain, expression: Expression, depth: number, truth: Truth): Step {
    const verdict = verdictOf(expression) ?? this.#fromMap(chain, expression);
    if (verdict === undefined) return 'continue';
    if (truth === undefined) {
      // it may or may not apply: remembered where that matters, otherwise passed over
      if (verdict.kind === 'accept' || (verdict.target && this.#mayAccept(chain, verdict.target, depth))) {
        this.maybeAccepted = true;
      }
      return 'continue';
    }
    if (verdict.target === undefined) return verdict.kind === 'call' ? 'continue' : verdict.kind;
    const target = findChain(this.#ruleset, chain, verdict.target);
    const step = target ? this.chain(target, depth + 1) : 'continue';
    return step === 'continue' && verdict.leaves ? 'return' : step;
  }

  #mayAccept(chain: FilterChain, target: string, depth: number): boolean {
    const called = findChain(this.#ruleset, chain, target);
    return called !== undefined && this.chain(called, depth + 1) === 'accept';
  }

  #elements(chain: FilterChain, name: string): unknown[] | undefined {
    return this.#ruleset.sets.get(setKey(chain, name));
  }

  /** `iifname vmap { "eth0" : jump … }`, also with a named map. */
  #fromMap(chain: FilterChain, expression: Expression): Verdict | undefined {
    const vmap = expression.vmap as { key: unknown; data: unknown } | undefined;
    if (!vmap) return undefined;
    for (const entry of elementsOf(vmap.data, (name) => this.#elements(chain, name)) ?? []) {
      const [key, value] = Array.isArray(entry) ? entry : [];
      const match = { match: { op: '==', left: vmap.key, right: key } };
      if (holds(match, [], this.#packet, () => undefined) === true) return verdictOf(value as Expression);
    }
    return undefined;
  }
}

interface Verdict {
  kind: 'accept' | 'drop' | 'return' | 'call';
  /** chain to go on in */
  target?: string;
  /** `goto`: does not come back */
  leaves?: boolean;
}

function verdictOf(expression: Expression): Verdict | undefined {
  if ('accept' in expression) return { kind: 'accept' };
  if ('drop' in expression || 'reject' in expression) return { kind: 'drop' };
  if ('return' in expression) return { kind: 'return' };
  if ('jump' in expression) return { kind: 'call', target: targetOf(expression.jump) };
  if ('goto' in expression) return { kind: 'call', target: targetOf(expression.goto), leaves: true };
  const xt = expression.xt as { type?: string; name?: string } | undefined;
  return xt?.type === 'target' && xt.name === 'REJECT' ? { kind: 'drop' } : undefined;
}

function targetOf(value: unknown): string {
  return (value as { target?: string } | null)?.target ?? '';
}

type Lookup = (name: string) => unknown[] | undefined;

/** Whether a rule goes on behind this expression; statements that match nothing always let it. */
function holds(expression: Expression, rule: Expression[], packet: Packet, lookup: Lookup): Truth {
  if ('limit' in expression) return undefined;
  const xt = expression.xt as { type?: string; name?: string } | undefined;
  if (xt?.type === 'match') return holdsXt(xt.name ?? '', rule, packet);
  const match = expression.match as { op: string; left: Record<string, unknown>; right: unknown } | undefined;
  if (!match) return true;
  const held = compare(match.left, match.right, packet, lookup);
  return match.op === '!=' && held !== undefined ? !held : held;
}

/** iptables' own matches keep their arguments to themselves in nft's output; what they are used for is known. */
function holdsXt(name: string, rule: Expression[], packet: Packet): Truth {
  if (name === 'comment') return true;
  // used for addresses of the host itself, which are not forwarded; what is dropped by it is a broadcast
  if (name === 'addrtype' && packet.hook === 'forward') return false;
  if (name === 'addrtype')
    return rule.some((expression) => 'return' in expression || 'accept' in expression) || undefined;
  if (name === 'conntrack' || name === 'state') {
    // before an ACCEPT it means RELATED,ESTABLISHED, before anything else INVALID
    return rule.some((expression) => 'accept' in expression) && packet.state === 'established';
  }
  return undefined;
}

function compare(left: Record<string, unknown>, right: unknown, packet: Packet, lookup: Lookup): Truth {
  const candidates = elementsOf(right, lookup);
  if (candidates === undefined) return undefined;
  const any = (test: (candidate: unknown) => Truth): Truth => {
    const results = candidates.map((candidate) => test(unwrap(candidate)));
    return results.includes(true) ? true : results.includes(undefined) ? undefined : false;
  };
  const key = (left.meta as { key?: string } | undefined)?.key;
  if (key === 'iifname' || key === 'iif') return any((name) => matchesDevice(packet.from, name));
  if (key === 'oifname' || key === 'oif')
    return any((name) => packet.to !== undefined && matchesDevice(packet.to, name));
  if (key === 'l4proto')
    return any((protocol) => protocol === packet.protocol || protocol === NUMBERS[packet.protocol]);
  if (key === 'nfproto') return any((protocol) => protocol === 'ipv4');
  if (key === 'protocol') return any((protocol) => protocol === 'ip');
  const conntrack = (left.ct as { key?: string } | undefined)?.key;
  if (conntrack === 'state') return any((state) => state === packet.state);
  if (conntrack === 'status') return any((status) => (status === 'dnat' ? packet.translated : undefined));
  const payload = left.payload as { protocol?: string; field?: string } | undefined;
  if (payload?.protocol === 'ip' && payload.field === 'saddr') return any((range) => inRange(packet.source, range));
  if (payload?.protocol === 'ip' && payload.field === 'daddr')
    return any((range) => inRange(packet.destination, range));
  if (payload?.protocol === 'ip' && payload.field === 'protocol')
    return any((protocol) => protocol === packet.protocol);
  if (payload?.protocol === undefined || payload.protocol === 'ip') return undefined;
  // `th`: either of both
  if (payload.protocol !== packet.protocol && payload.protocol !== 'th') return false;
  if (payload.field === 'dport') return any((port) => inPorts(packet.port, port));
  return undefined;
}

/** The values on the right of a match, or of a set; undefined for a set that is not known. */
function elementsOf(right: unknown, lookup: Lookup): unknown[] | undefined {
  if (typeof right === 'string' && right.startsWith('@')) return lookup(right.slice(1));
  if (Array.isArray(right)) return right;
  const set = (right as { set?: unknown } | null)?.set;
  return set === undefined ? [right] : Array.isArray(set) ? set : [set];
}

/** Elements with a timeout or comment of their own are wrapped. */
function unwrap(element: unknown): unknown {
  return (element as { elem?: { val?: unknown } } | null)?.elem?.val ?? element;
}

function matchesDevice(device: string, pattern: unknown): Truth {
  if (typeof pattern !== 'string') return undefined;
  return pattern.endsWith('*') ? device.startsWith(pattern.slice(0, -1)) : device === pattern;
}

function inRange(address: string | undefined, range: unknown): Truth {
  const subnet = rangeOf(range);
  if (subnet === undefined) return undefined;
  if (subnet.prefix === 0) return true;
  // somewhere outside: not in a private range named in a rule, but nobody knows which public ones
  if (address === undefined) return isPrivate(subnet) ? false : undefined;
  return overlaps({ base: parseAddress(address), prefix: 32 }, subnet);
}

function rangeOf(range: unknown): Subnet | undefined {
  const prefix = (range as { prefix?: { addr: string; len: number } } | null)?.prefix;
  try {
    if (prefix) return parseSubnet(`${prefix.addr}/${prefix.len}`);
    return typeof range === 'string' ? parseSubnet(range) : undefined;
  } catch {
    return undefined; // IPv6, or a host name
  }
}

function isPrivate(subnet: Subnet): boolean {
  return ['10.0.0.0/8', '172.16.0.0/12', '192.168.0.0/16'].some((text) => overlaps(parseSubnet(text), subnet));
}

function inPorts(port: number, wanted: unknown): boolean {
  const range = (wanted as { range?: [number, number] } | null)?.range;
  return range ? range[0] <= port && port <= range[1] : wanted === port;
}
