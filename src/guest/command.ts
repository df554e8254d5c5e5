/** The one string SSH takes, made from an argument list: the guest's shell must see exactly these words. */

export interface GuestCommand {
  argv: readonly string[];
  env?: Readonly<Record<string, string>> | undefined;
  cwd?: string | undefined;
}

/** POSIX sh; survives every byte but NUL. */
export function shellCommand({ argv, env = {}, cwd }: GuestCommand): string {
  const assignments = Object.entries(env).map(([key, value]) => `${key}=${quote(value)}`);
  const words = [...(assignments.length > 0 ? ['env', ...assignments] : []), ...argv.map(quote)].join(' ');
  return cwd === undefined ? `exec ${words}` : `cd -- ${quote(cwd)} && exec ${words}`;
}

export function quote(word: string): string {
  return /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`;
}

/** Tells where a command's own output begins, and which process it is. */
const BEGIN = '\x1ebanger-exec';

/** The same for printf in the guest's shell. */
const BEGIN_ESCAPED = BEGIN.replace('\x1e', '\\036');

/**
 * Takes the first terminal that the guest knows where it does not know the client's, and leaves that where it has no
 * terminfo at all.
 */
const KNOWN_TERMINAL = `d= k=; for t in "$TERM" xterm-256color xterm vt100; do case $t in */*) continue;; esac
for i in "$HOME/.terminfo" /etc/terminfo /lib/terminfo /usr/lib/terminfo /usr/share/terminfo; do
[ -d "$i" ] && d=1; [ -z "$k" ] && [ -e "$i/\${t%"\${t#?}"}/$t" ] && k=$t; done; done
[ -z "$d" ] || TERM=\${k:-xterm-256color}; export TERM; `;

/** Prints the terminal to take for one that the guest may not know. */
export function terminalCommand(term: string): string {
  return `exec sh -c ${quote(`TERM=$1; ${KNOWN_TERMINAL}printf %s "$TERM"`)} sh ${quote(term)}`;
}

/**
 * A command that says its process id before it begins, so that its session is known however it changes its environment
 * or user, and so that a login shell that ends before it is not taken for it.
 * @param token what {@link createBeginReader} is told too
 */
export function sessionCommand(command: GuestCommand, token: string, tty: boolean): string {
  const { script, operands } = sessionScript(command, token, tty);
  return `exec sh -c ${[script, 'sh', ...operands].map(quote).join(' ')}`;
}

export interface SessionScript {
  script: string;
  operands: readonly string[];
  /** what of the operands comes before the command: whether a directory, and how many assignments behind `env` */
  plain: { enters: boolean; assignments: number };
}

/** The same as a POSIX shell script and its arguments, for whoever starts the shell itself. */
export function sessionScript({ argv, env = {}, cwd }: GuestCommand, token: string, tty: boolean): SessionScript {
  const assignments = Object.entries(env).map(([key, value]) => `${key}=${value}`);
  const words = assignments.length > 0 ? ['env', ...assignments, ...argv] : argv;
  const enter = cwd === undefined ? '' : 'cd -- "$1" || exit 1; shift; ';
  const script = `printf "${BEGIN_ESCAPED} %s %s\\n" ${token} $$; ${enter}${tty ? KNOWN_TERMINAL : ''}exec "$@"`;
  return {
    script,
    operands: cwd === undefined ? words : [cwd, ...words],
    plain: { enters: cwd !== undefined, assignments: assignments.length },
  };
}

export interface BeginReader {
  /** the command's process id in the guest, undefined until it has begun */
  readonly pid: number | undefined;
  /** Takes the next bytes of standard output and returns those that are output. */
  push(chunk: Buffer): Buffer;
  /** What was held back because it might have been the beginning. */
  end(): Buffer;
}

/** Finds the line of {@link sessionCommand} in standard output; what a login shell says before it is passed on. */
export function createBeginReader(token: string): BeginReader {
  const mark = Buffer.from(`${BEGIN} ${token} `);
  let pid: number | undefined;
  let held: Buffer = Buffer.alloc(0);
  return {
    get pid() {
      return pid;
    },
    push(chunk) {
      if (pid !== undefined) return chunk;
      const text = held.length === 0 ? chunk : Buffer.concat([held, chunk]);
      const at = text.indexOf(mark);
      if (at < 0) {
        const keep = overlap(text, mark);
        held = text.subarray(text.length - keep);
        return text.subarray(0, text.length - keep);
      }
      const end = text.indexOf(0x0a, at);
      if (end < 0 && text.length - at < mark.length + MAX_PID_BYTES) {
        held = text.subarray(at);
        return text.subarray(0, at);
      }
      pid = Number.parseInt(text.toString('latin1', at + mark.length, end), 10);
      held = Buffer.alloc(0);
      return Buffer.concat([text.subarray(0, at), text.subarray(end + 1)]);
    },
    end() {
      const rest = held;
      held = Buffer.alloc(0);
      return rest;
    },
  };
}

/** Digits of a process id and the end of the line. */
const MAX_PID_BYTES = 16;

/** Length of the longest beginning of `mark` that `text` ends with. */
function overlap(text: Buffer, mark: Buffer): number {
  for (let length = Math.min(text.length, mark.length - 1); length > 0; length--) {
    if (text.subarray(text.length - length).equals(mark.subarray(0, length))) return length;
  }
  return 0;
}

/**
 * Signals a command's whole session: every process of it, their descendants, and the sessions those have begun (`su`, `script`).
 * What has left both, as daemons do, is not of it. The kernel's process list is read by the shell itself, because a small
 * guest has no ps or pkill.
 * @param pid what {@link createBeginReader} found
 */
export function signalSession(pid: number, signal: string): string {
  return `all=; for f in /proc/[0-9]*/stat; do { read -r l < "$f"; } 2>/dev/null || continue
p=\${l%% *}; set -- \${l##*) }; all="$all $p:$2:$4"; done
found=" "; for e in $all; do r=\${e#*:}; p=\${e%%:*}; s=\${r#*:}
[ "$s" = ${pid} ] || { [ "$p" = ${pid} ] && [ "\${r%:*}" = "$PPID" ]; } && found="$found$p "; done
more=1; while [ -n "$more" ]; do more=; for e in $all; do r=\${e#*:}; p=\${e%%:*}
case "$found" in *" $p "*) continue;; esac
case "$found" in *" \${r%:*} "*|*" \${r#*:} "*) found="$found$p "; more=1;; esac; done; done
[ "$found" = " " ] || kill -${signal} $found 2>/dev/null`;
}
