/** Rules of iptables' older kernel interface, which nft does not list, in the same form as nft's. */
import type { Expression, FilterChain, Ruleset } from './ruleset.ts';

/** Targets that are verdicts of their own; every other one is the name of a chain. */
const VERDICTS: Record<string, Expression> = {
  ACCEPT: { accept: null },
  DROP: { drop: null },
  REJECT: { reject: null },
  RETURN: { return: null },
  QUEUE: { queue: null },
  NFQUEUE: { queue: null },
};

/** Targets that do something to the packet and let it go on. */
const PASSING_TARGETS = new Set(['LOG', 'NFLOG', 'MARK', 'CONNMARK', 'TCPMSS', 'TRACE', 'ULOG', 'SET']);

/** Parses what `iptables-legacy-save -t filter` prints. */
export function parseIptablesSave(text: string): Ruleset {
  const chains = new Map<string, FilterChain>();
  for (const line of text.split('\n')) {
    const declared = /^:(\S+) (\S+)/.exec(line);
    if (declared) {
      const [, name = '', policy] = declared;
      chains.set(name, {
        family: 'ip',
        table: 'filter',
        name,
        hook: policy === '-' ? undefined : name.toLowerCase(),
        policy: policy === 'DROP' ? 'drop' : 'accept',
        rules: [],
      });
    }
    const rule = /^-A (\S+)(?: (.*))?$/.exec(line);
    if (rule) chains.get(rule[1] ?? '')?.rules.push(parseRule(splitArguments(rule[2] ?? '')));
  }
  return { chains: [...chains.values()], sets: new Map(), backend: 'iptables-legacy' };
}

function parseRule(args: string[]): Expression[] {
  const expressions: Expression[] = [];
  let negated = false;
  for (let index = 0; index < args.length; index++) {
    const option = args[index] ?? '';
    if (option === '!') {
      negated = true;
      continue;
    }
    // every option iptables-save prints, except switches, has its value behind it
    const value = args[index + 1]?.startsWith('-') ? undefined : args[index + 1];
    const expression = translate(option, value ?? '', negated);
    if (expression) expressions.push(expression);
    if (value !== undefined) index++;
    negated = false;
  }
  return expressions;
}

function translate(option: string, value: string, negated: boolean): Expression | undefined {
  const match = (left: unknown, right: unknown): Expression => ({
    match: { op: negated ? '!=' : '==', left, right },
  });
  switch (option) {
    case '-i':
      return match({ meta: { key: 'iifname' } }, value.replace(/\+$/, '*'));
    case '-o':
      return match({ meta: { key: 'oifname' } }, value.replace(/\+$/, '*'));
    case '-s':
      return match({ payload: { protocol: 'ip', field: 'saddr' } }, prefixOf(value));
    case '-d':
      return match({ payload: { protocol: 'ip', field: 'daddr' } }, prefixOf(value));
    case '-p':
      return match({ meta: { key: 'l4proto' } }, value);
    case '--dport':
      return match({ payload: { protocol: 'th', field: 'dport' } }, portsOf(value));
    case '--ctstate':
    case '--state':
      return match({ ct: { key: 'state' } }, value.toLowerCase().split(','));
    case '-m':
      // the options that follow say what is matched; a match without any known one stays unknown
      return KNOWN_MATCHES.has(value) ? undefined : { xt: { type: 'match', name: value } };
    case '-j':
      if (Object.hasOwn(VERDICTS, value)) return VERDICTS[value];
      return PASSING_TARGETS.has(value) ? undefined : { jump: { target: value } };
    case '-g':
      return { goto: { target: value } };
    default:
      return undefined;
  }
}

const KNOWN_MATCHES = new Set(['conntrack', 'state', 'tcp', 'udp', 'comment']);

function prefixOf(value: string): unknown {
  const [addr = '', length = '32'] = value.split('/');
  return { prefix: { addr, len: Number(length) } };
}

/** `53`, or `1024:65535`. */
function portsOf(value: string): unknown {
  const [first = '', last] = value.split(':');
  return last === undefined ? Number(first) : { range: [Number(first), Number(last)] };
}

/** Words of a line in which iptables-save quotes those with spaces. */
function splitArguments(line: string): string[] {
  return [...line.matchAll(/"((?:[^"\\]|\\.)*)"|(\S+)/g)].map((match) => match[1] ?? match[2] ?? '');
}
