/** What is known about kernels under KVM: small files, valid until the host boots again. */
import {
  createReadStream,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';

/** How a kernel fared: it spoke, QEMU ended, or nothing came in the time it had. */
export type Outcome = 'works' | 'fails' | 'silent';

export interface Verdict {
  outcome: Outcome;
  /** what the kernel had */
  timeMs: number;
}

/** A file that was changed so lately may be changed again without any of its times showing it. */
const SETTLED_MS = 1000;

/** Read at once, so that requests are answered in between. */
const READ_BYTES = 512 * 1024;

export class KvmVerdicts {
  readonly #directory: string;
  readonly #boot: string;

  /** @param directory need not exist; one that cannot be written costs time, not correctness */
  constructor(directory: string) {
    this.#directory = directory;
    this.#boot = readFileSync('/proc/sys/kernel/random/boot_id', 'latin1').trim();
  }

  /**
   * Name of a kernel by its content, which is read only when the file is not the one it was.
   * @throws the system error of stat(2) or read(2)
   */
  async nameOf(path: string): Promise<string> {
    const note = this.#path(`sum-${fileIdentity(path)}`);
    const noted = readText(note);
    if (noted !== undefined) return noted;
    const { createHash } = await import('node:crypto');
    const hash = createHash('sha256');
    for await (const bytes of createReadStream(path, { highWaterMark: READ_BYTES })) hash.update(bytes);
    const name = hash.digest('hex').slice(0, 32);
    if (Date.now() - statSync(path).ctimeMs > SETTLED_MS && this.#path(`sum-${fileIdentity(path)}`) === note) {
      this.#write(note, name);
    }
    return name;
  }

  read(kernel: string): Verdict | undefined {
    const [, outcome, timeMs] = /^(works|fails|silent) (\d+)$/.exec(readText(this.#path(kernel)) ?? '') ?? [];
    return outcome === undefined ? undefined : { outcome: outcome as Outcome, timeMs: Number(timeMs) };
  }

  write(kernel: string, { outcome, timeMs }: Verdict): void {
    this.#write(this.#path(kernel), `${outcome} ${timeMs}`);
  }

  /**
   * Makes this process the only one that tries a kernel.
   * @returns ends that; undefined while another process tries it
   */
  claim(kernel: string): (() => void) | undefined {
    const path = this.#path(`try-${kernel}`);
    const release = () => rmSync(path, { force: true });
    for (let attempt = 0; attempt < 2; attempt++) {
      try {
        mkdirSync(this.#directory, { recursive: true, mode: 0o700 });
        writeFileSync(path, `${process.pid}`, { flag: 'wx' });
        return release;
      } catch {
        const other = readText(path);
        // without a directory that can be written there is nobody to agree with
        if (other === undefined) return () => {};
        if (isAlive(other)) return undefined;
        release();
      }
    }
    return undefined;
  }

  #path(name: string): string {
    return join(this.#directory, `kvm-${this.#boot}-${name}`);
  }

  #write(path: string, text: string): void {
    try {
      mkdirSync(this.#directory, { recursive: true, mode: 0o700 });
      for (const name of readdirSync(this.#directory)) {
        if (name.startsWith('kvm-') && !name.startsWith(`kvm-${this.#boot}-`)) unlinkSync(join(this.#directory, name));
      }
      writeFileSync(path, `${text}\n`);
    } catch {
      // not kept, so looked for again
    }
  }
}

/** Changes whenever the content of the file may have changed. @throws the system error of stat(2) */
export function fileIdentity(path: string): string {
  const { dev, ino, size, mtimeNs, ctimeNs } = statSync(path, { bigint: true });
  return [dev, ino, size, mtimeNs, ctimeNs].join('-');
}

function readText(path: string): string | undefined {
  try {
    return readFileSync(path, 'latin1').trim();
  } catch {
    return undefined;
  }
}

function isAlive(pid: string): boolean {
  try {
    return statSync(`/proc/${pid || 'none'}`).isDirectory();
  } catch {
    return false;
  }
}
