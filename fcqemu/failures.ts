/** What the process says when it fails: in the log, and on standard error in Rust's debug form. */
import { ArgumentError } from './argv.ts';
import { EXIT, Exit, exitCodeName } from './exit-code.ts';
import type { Fault } from './fault.ts';
import type { ConfigFileError } from './vmm/config-file.ts';

/** How Firecracker calls what goes wrong with an API socket and without. */
export interface Mode {
  configFailed(cause: ConfigFileError): Exit;
  /** the machine ended with an error */
  stopped(code: number): Exit;
}

export const WITH_API = {
  configFailed: ({ message, debug }) =>
    exit(`RunWithApiError error: Failed to build MicroVM from Json: ${message}`, `RunWithApi(BuildFromJson(${debug}))`),
  stopped: (code) =>
    exit(
      `RunWithApiError error: MicroVM stopped with an error: ${exitCodeName(code)}`,
      `RunWithApi(MicroVMStoppedWithError(${exitCodeName(code)}))`,
      code,
    ),
  metadataFailed: ({ message, debug }: Fault) =>
    exit(
      'RunWithApiError error: Failed to build MicroVM: Populating MMDS from file failed: ' +
        `${message.replace(/^MMDS limit exceeded error: /, '')}..`,
      `RunWithApi(BuildMicroVmError(PopulateMmds(${debug})))`,
    ),
  /** a snapshot that could not be loaded leaves a process that is of no more use */
  restoreFailed: (what: 'Restore' | 'Resume') =>
    exit(
      'RunWithApiError error: Failed to build MicroVM: ' +
        (what === 'Restore' ? 'Loading snapshot failed..' : 'Resuming MicroVM after loading snapshot failed..'),
      `RunWithApi(BuildMicroVmError(${what}))`,
    ),
} satisfies Mode & Record<string, unknown>;

export const WITHOUT_API: Mode = {
  configFailed: ({ message, debug }) =>
    exit(
      `RunWithoutApiError error: Failed to build MicroVM from Json: ${message}`,
      `RunWithoutApiError(BuildMicroVMFromJson(${debug}))`,
    ),
  stopped: (code) =>
    exit(
      `RunWithoutApiError error: MicroVMStopped without an error: ${exitCodeName(code)}`,
      `RunWithoutApiError(Shutdown(${exitCodeName(code)}))`,
      code,
    ),
};

export function describeFailure(error: unknown): { code: number; message: string; debug: string } {
  if (error instanceof Exit) return error;
  if (error instanceof ArgumentError) {
    return {
      code: EXIT.argumentParsing,
      // a backslash and an n, as in Firecracker's log
      message: `Arguments parsing error: ${error.message} \\n\\nFor more information try --help.`,
      debug: `ParseArguments(${error.debug})`,
    };
  }
  const message = error instanceof Error ? error.message : String(error);
  return { code: EXIT.generic, message, debug: message };
}

/** `FILE:LINE:COLUMN` where an error was made. */
export function placeOf({ stack }: Error): string {
  return `fcqemu/${/([^/(\s]{1,200}:\d{1,9}:\d{1,9})\)?$/m.exec(stack ?? '')?.[1] ?? 'main.ts:1:1'}`;
}

function exit(message: string, debug: string, code: number = EXIT.generic): Exit {
  return new Exit(code, message, debug);
}
