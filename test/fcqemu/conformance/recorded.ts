/**
 * All recordings, where they lie beside the checkout or in the directory FCQEMU_RECORDINGS names: answers by name of the sequence, and the program that sent the
 * requests, which is asked for them.
 */
import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { gunzipSync } from 'node:zlib';
import { endedWith, formatAnswer, type Request, type Sequence, type Step } from './sequences.ts';

const DIRECTORY = process.env.FCQEMU_RECORDINGS || join(import.meta.dirname, '../../../../shared/conformance');
const ANSWERS = join(DIRECTORY, 'answers-1.16.1.json.gz');
const PROGRAM = join(DIRECTORY, 'compare.py');

/** Prints all sequences and the files that they name. Bytes are told as text of as many characters. */
const DUMP = `
import importlib.util, json, os, sys, tempfile
spec = importlib.util.spec_from_file_location('compare', sys.argv[1])
compare = importlib.util.module_from_spec(spec)
spec.loader.exec_module(compare)
groups = {name: getattr(compare, 'g_' + name) for name in 'mutate paths raw seq post cli signals snap tap'.split()}
groups['fuzz'] = lambda: compare.g_fuzz(200, 1, False)
groups['fuzzpost'] = lambda: compare.g_fuzz(100, 1, True)

def body(value):
    if not isinstance(value, (str, bytes)): value = json.dumps(value, separators=(',', ':'))
    return (value.encode() if isinstance(value, str) else value).decode('latin1')

def step(s):
    if s[0] == 'raw': return {'raw': s[1].decode('latin1')}
    if s[0] == 'sleep': return {'sleepMs': int(s[1] * 1000)}
    if s[0] == 'file': return {'file': s[1]}
    if s[0] == 'exists': return {'exists': list(s[1:])}
    if s[0] == 'signal': return {'signal': s[1].name}
    return [s[0], s[1]] + [body(b) for b in s[2:3] if b is not None]

cases = []
for group, generate in groups.items():
    seen = {}
    for case in generate():
        name = case['name']
        if name == 'skip': continue
        seen[name] = seen.get(name, 0) + 1
        told = {key: case[key] for key in ('argv', 'truncate', 'flip') if key in case}
        told.update(group=group, key='%s|%s|%d' % (group, name, seen[name]), steps=[step(s) for s in case.get('steps', [])])
        if 'rm' in case: told['remove'] = case['rm']
        if 'prelude' in case: told['prelude'] = [step(s) for s in case['prelude']]
        cases.append(told)
with tempfile.TemporaryDirectory() as directory:
    compare.fixtures(directory)
    names = [name for name in os.listdir(directory) if name.endswith('.json')]
    texts = {name: open(directory + '/' + name, 'rb').read().decode('latin1') for name in names}
print(json.dumps({'cases': cases, 'texts': texts}))
`;

/** Words of glibc, which the recorded Firecracker was linked with, and of musl. */
const WORDS: [glibc: string, musl: string][] = [
  ['Device or resource busy', 'Resource busy'],
  ['Cannot allocate memory', 'Out of memory'],
  ['File name too long', 'Filename too long'],
  ['Address already in use', 'Address in use'],
  ['Illegal seek', 'Invalid seek'],
];

export interface RecordedCase extends Sequence {
  group: string;
  /** the whole command line */
  argv: string[];
  /** what the process wrote */
  stdout: string;
  stderr: string;
  /** how the process ended by itself, negative for a signal; undefined when it went on */
  status: number | undefined;
}

interface DumpedCase extends Pick<Sequence, 'prelude' | 'remove' | 'truncate' | 'flip'> {
  group: string;
  key: string;
  argv?: string[];
  steps: Step[];
}

type RecordedAnswers = Record<string, [answers: string[], stdout: string, stderr: string]>;

/** Why there are no recordings; false when there are. */
export function recordedSkipReason(): string | false {
  for (const file of [ANSWERS, PROGRAM]) if (!existsSync(file)) return `${file} does not exist`;
  return spawnSync('python3', ['--version']).error ? 'python3, which tells the requests, is not installed' : false;
}

export function readRecorded(): { cases: RecordedCase[]; texts: Record<string, string> } {
  const env = { ...process.env, RUN: '/nonexistent', PYTHONDONTWRITEBYTECODE: '1' };
  const options = { encoding: 'utf8', maxBuffer: 2 ** 28, env } as const;
  const dump = JSON.parse(execFileSync('python3', ['-c', DUMP, PROGRAM], options)) as {
    cases: DumpedCase[];
    texts: Record<string, string>;
  };
  const recorded = JSON.parse(gunzipSync(readFileSync(ANSWERS)).toString('utf8')) as RecordedAnswers;
  const cases = dump.cases.map((each) => withAnswers(each, recorded[each.key] ?? [[], '', '']));
  return { cases, texts: dump.texts };
}

function withAnswers(dumped: DumpedCase, [answers, stdout, stderr]: RecordedAnswers[string]): RecordedCase {
  const { key, group, argv = ['--api-sock', 's'], steps, ...rest } = dumped;
  // first whether it came up, last how it ended
  const told = answers.slice(1).map(muslWords);
  const expected: string[] = [];
  const taken: Step[] = [];
  for (const step of steps) {
    const isSleep = 'sleepMs' in step;
    const answer = isSleep ? '' : told.shift();
    if (answer === undefined) break;
    taken.push(step);
    expected.push(plain(answer, step));
  }
  const status = /^rc=(-?\d+)$/.exec(told[0] ?? '')?.[1];
  return {
    ...rest,
    group,
    argv,
    name: key.split('|')[1]?.replace(/^\S+ /, '') ?? key,
    options: argv[0] === '--api-sock' ? argv.slice(2) : argv,
    unordered: ['post', 'fuzzpost', 'snap'].includes(group),
    steps: taken,
    expected,
    stdout: muslWords(stdout),
    stderr: muslWords(stderr),
    status: status === undefined ? undefined : Number(status),
  };
}

function muslWords(text: string): string {
  return WORDS.reduce((changed, [glibc, musl]) => changed.replaceAll(glibc, musl), text);
}

/** A recorded answer in the form of `formatAnswer`. */
function plain(answer: string, step: Step): string {
  if ('raw' in step) return answer.replaceAll(/<(?:QUIET|EOF)>/g, '');
  if ('exists' in step) return answer.toLowerCase().replaceAll(' ', '');
  const ended = /^<(?:Connection|BrokenPipe)\w* rc=(-?\d+)>$/.exec(answer)?.[1];
  if (ended !== undefined) return endedWith(Number(ended));
  if (answer === '<EOF>') return endedWith(-6);
  if (!answer.startsWith('HTTP/')) return answer.replace(/duration: \d+ us/g, 'duration: N us').replace(/\0+$/, '');
  const [head = '', body = ''] = answer.split('\r\n\r\n');
  return formatAnswer({
    status: Number(head.split(' ')[1]),
    deprecated: head.includes('\r\nDeprecation: true'),
    // what was null was taken out
    body: Buffer.from(body, 'latin1')
      .toString('utf8')
      .replace(
        /("boot-source":\{"kernel_image_path":"[^"]*","initrd_path":(?:null|"[^"]*"))\}/,
        '$1,"boot_args":null}',
      ),
  });
}

/** Whether it can be asked without a process of its own: opening a FIFO would stop everything. */
export function isReplayable({ group, steps }: RecordedCase): boolean {
  const opensFifo = (step: Step) => Array.isArray(step) && (step as Request)[2]?.includes('"kernel_image_path":"fifo"');
  return group !== 'cli' && group !== 'signals' && !steps.some(opensFifo);
}
