// Who may call, under which certificate, and that both can change while the server runs.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <fstream>
#include <string>
#include <utility>
#include <vector>

#include "backend/tensor/mutex.h"
#include "backend/tensor/status.h"
#include "server/authorizer.h"
#include "server/file_watcher.h"
#include "server/tls_files.h"
#include "tests/testing/certificates.h"
#include "tests/testing/paths.h"

namespace thresher {
namespace {

using ::testing::AllOf;
using testing::CertificateAuthority;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;
using testing::PemPair;

class FilesTest : public ::testing::Test {
 protected:
  std::string Path(const std::string& name) const { return (directory_.path() / name).string(); }
  std::string Write(const std::string& name, const std::string& text) {
    std::ofstream(Path(name), std::ios::binary | std::ios::trunc) << text;
    chmod(Path(name).c_str(), 0600);
    return Path(name);
  }

 private:
  testing::TempDir directory_;
};

TEST(OpenDoorsTest, AreNamed) {
  const auto none = ParseOpenDoors("none");
  ASSERT_TRUE(none.ok());
  EXPECT_FALSE(none->Has(Door::kHealth));
  const auto some = ParseOpenDoors("health, metrics");
  ASSERT_TRUE(some.ok());
  EXPECT_TRUE(some->Has(Door::kHealth));
  EXPECT_TRUE(some->Has(Door::kMetrics));
  EXPECT_FALSE(some->Has(Door::kReflection));
  EXPECT_FALSE(some->Has(Door::kClosed));
  for (const char* wrong : {"", "health,", "everything", "health metrics", "none,health"}) {
    EXPECT_FALSE(ParseOpenDoors(wrong).ok()) << wrong;
  }
}

TEST(OpenDoorsTest, OnlyHealthAndReflectionAreNotBehindTheClosedOne) {
  EXPECT_EQ(DoorOfMethod("/grpc.health.v1.Health/Check"), Door::kHealth);
  EXPECT_EQ(DoorOfMethod("/inference.GRPCInferenceService/ServerReady"), Door::kHealth);
  EXPECT_EQ(DoorOfMethod("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"),
            Door::kReflection);
  for (const char* closed :
       {"/thresher.v1.Thresher/Classify", "/inference.GRPCInferenceService/ModelInfer",
        "/inference.GRPCInferenceService/RepositoryModelUnload", "/no.such.Service/Method", "", "/",
        "grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Checks"}) {
    EXPECT_EQ(DoorOfMethod(closed), Door::kClosed) << closed;
  }
}

TEST(TokensTest, HaveNamesOrNone) {
  const auto tokens = Tokens::Parse(
      "# for whom\n"
      "  \n"
      "search:aaaaaaaaaaaaaaaaaaaa\r\n"
      " batch.jobs : bbbbbbbbbbbbbbbbbbbb= \n"
      "cccccccccccccccccccc",
      "f");
  ASSERT_TRUE(tokens.ok()) << tokens.status();
  EXPECT_EQ(tokens->size(), 3);
  const auto caller = [&](std::string_view token) {
    const std::string* found = tokens->Find(token);
    return found == nullptr ? "nobody" : *found;
  };
  EXPECT_EQ(caller("aaaaaaaaaaaaaaaaaaaa"), "search");
  EXPECT_EQ(caller("bbbbbbbbbbbbbbbbbbbb="), "batch.jobs");
  EXPECT_EQ(caller("cccccccccccccccccccc"), "unnamed");
  for (const char* wrong : {"", "aaaaaaaaaaaaaaaaaaa", "aaaaaaaaaaaaaaaaaaaaa", "search",
                            "search:aaaaaaaaaaaaaaaaaaaa", "AAAAAAAAAAAAAAAAAAAA"}) {
    EXPECT_EQ(caller(wrong), "nobody") << wrong;
  }
}

TEST(TokensTest, WrongLinesAreNamedWithoutTheToken) {
  for (const auto& [text, where] : std::vector<std::pair<std::string, std::string>>{
           {"a:secret-one-is-long\nspaces in:secret-two-is-long", "f:2"},
           {"\n\nsecret token is long", "f:3"},
           {"a:secret-one-is-long\nb:secret-one-is-long", "f:2"},
           {"a:secret-one-is-long\na:secret-two-is-long", "f:2"},
           {"a:", "f:1"},
           {std::string("secret\0token-is-long", 20), "f:1"},
           {"secret-t\xc3\xb6ken-is-long", "f:1"}}) {
    const auto tokens = Tokens::Parse(text, "f");
    ASSERT_FALSE(tokens.ok()) << text;
    EXPECT_THAT(Message(tokens.status()), AllOf(HasSubstr(where), Not(HasSubstr("secret"))));
  }
  EXPECT_THAT(Message(Tokens::Parse("# nobody\n", "f").status()), HasSubstr("nobody could call"));
}

class AuthorizerTest : public FilesTest {
 protected:
  void Open(const std::string& tokens, OpenDoors open = {.health = true}) {
    Authorizer::Options options;
    if (!tokens.empty()) options.tokens = Write("tokens", tokens);
    options.open = open;
    options.events.accepted = [this](std::string_view caller) { accepted_.emplace_back(caller); };
    options.events.refused = [this](std::string_view front, std::string_view reason) {
      refused_.push_back(std::string(front) + " " + std::string(reason));
    };
    auto authorizer = Authorizer::Open(std::move(options));
    ASSERT_TRUE(authorizer.ok()) << authorizer.status();
    authorizer_ = *std::move(authorizer);
  }

  /// The caller's name, or what was wrong.
  std::string Check(std::optional<std::string_view> authorization, Door door = Door::kClosed,
                    bool certified = true) {
    const auto caller = authorizer_->Check({.front = "grpc",
                                            .door = door,
                                            .method = "/a/b",
                                            .authorization = authorization,
                                            .certified = certified});
    if (caller.ok()) return *caller;
    EXPECT_EQ(caller.status().code(), absl::StatusCode::kUnauthenticated);
    return refused_.back();
  }

  std::unique_ptr<Authorizer> authorizer_;
  std::vector<std::string> accepted_, refused_;
};

TEST_F(AuthorizerTest, TakesTheTokensOfTheFile) {
  Open("search:aaaaaaaaaaaaaaaaaaaa");
  EXPECT_EQ(Check("Bearer aaaaaaaaaaaaaaaaaaaa"), "search");
  EXPECT_EQ(Check("bEARER  aaaaaaaaaaaaaaaaaaaa "), "search");
  EXPECT_EQ(Check(std::nullopt), "grpc missing");
  EXPECT_EQ(Check("Bearer aaaaaaaaaaaaaaaaaaab"), "grpc wrong");
  EXPECT_EQ(Check("Bearer"), "grpc wrong");
  EXPECT_EQ(Check("Bearer search:aaaaaaaaaaaaaaaaaaaa"), "grpc wrong");
  EXPECT_EQ(Check(""), "grpc malformed");
  EXPECT_EQ(Check("aaaaaaaaaaaaaaaaaaaa"), "grpc malformed");
  EXPECT_EQ(Check("Basic aaaaaaaaaaaaaaaaaaaa"), "grpc malformed");
  EXPECT_EQ(Check("Bearer\taaaaaaaaaaaaaaaaaaaa"), "grpc malformed");
  EXPECT_THAT(accepted_, ElementsAre("search", "search"));
}

TEST_F(AuthorizerTest, OpenDoorsNeedNothing) {
  Open("aaaaaaaaaaaaaaaaaaaa", {.health = true, .metrics = false});
  EXPECT_EQ(Check(std::nullopt, Door::kHealth), "");
  EXPECT_EQ(Check(std::nullopt, Door::kHealth, /*certified=*/false), "");
  EXPECT_EQ(Check(std::nullopt, Door::kMetrics), "grpc missing");
  EXPECT_EQ(Check("Bearer aaaaaaaaaaaaaaaaaaaa", Door::kMetrics), "unnamed");
}

TEST_F(AuthorizerTest, ACertificateIsNoTokenNorATokenACertificate) {
  Open("aaaaaaaaaaaaaaaaaaaa");
  EXPECT_EQ(Check("Bearer aaaaaaaaaaaaaaaaaaaa", Door::kClosed, /*certified=*/false),
            "grpc certificate");
  EXPECT_EQ(Check(std::nullopt, Door::kClosed, /*certified=*/true), "grpc missing");
}

TEST_F(AuthorizerTest, WithoutAFileEverybodyMayCall) {
  Open("");
  EXPECT_EQ(Check(std::nullopt), "");
  EXPECT_EQ(Check(std::nullopt, Door::kClosed, /*certified=*/false), "grpc certificate");
}

TEST_F(AuthorizerTest, ANewFileCountsOnceItIsWhole) {
  Open("old:aaaaaaaaaaaaaaaaaaaa");
  Write("tokens", "new:");
  EXPECT_FALSE(authorizer_->Reload().ok());
  EXPECT_EQ(Check("Bearer aaaaaaaaaaaaaaaaaaaa"), "old");
  Write("tokens", "new:bbbbbbbbbbbbbbbbbbbb");
  EXPECT_TRUE(authorizer_->Reload().ok());
  EXPECT_EQ(Check("Bearer aaaaaaaaaaaaaaaaaaaa"), "grpc wrong");
  EXPECT_EQ(Check("Bearer bbbbbbbbbbbbbbbbbbbb"), "new");
}

TEST_F(AuthorizerTest, AFileThatIsNotThereIsAnError) {
  Authorizer::Options options;
  options.tokens = Path("none");
  EXPECT_THAT(Message(Authorizer::Open(options).status()),
              AllOf(HasSubstr("none"), HasSubstr("No such file")));
  options.tokens = Path("");
  EXPECT_THAT(Message(Authorizer::Open(options).status()), HasSubstr("regular file"));
}

class TlsFilesTest : public FilesTest {
 protected:
  absl::StatusOr<TlsIdentity> Read(const PemPair& pair, const std::string& client_ca = "") {
    return ReadTlsFiles({Write("cert", pair.certificate), Write("key", pair.key),
                         client_ca.empty() ? "" : Write("ca", client_ca)},
                        absl::Now());
  }
  std::string ErrorOf(const PemPair& pair, const std::string& client_ca = "") {
    const auto identity = Read(pair, client_ca);
    EXPECT_EQ(identity.status().code(), absl::StatusCode::kFailedPrecondition);
    return Message(identity.status());
  }

  CertificateAuthority authority_{"authority"};
};

TEST_F(TlsFilesTest, TellWhoAndForHowLong) {
  const PemPair pair = authority_.Issue("server");
  const auto identity = Read(pair, authority_.pem());
  ASSERT_TRUE(identity.ok()) << identity.status();
  EXPECT_EQ(identity->subject, "CN=server");
  EXPECT_LT(absl::AbsDuration(identity->not_after - (absl::Now() + absl::Hours(24))),
            absl::Minutes(5));
  EXPECT_FALSE(identity->key_is_public);
  EXPECT_TRUE(Read({pair.certificate + authority_.pem(), pair.key}).ok()) << "a chain";
  chmod(Path("key").c_str(), 0644);
  EXPECT_TRUE(ReadTlsFiles({Path("cert"), Path("key"), ""}, absl::Now())->key_is_public);
}

TEST_F(TlsFilesTest, WhatDoesNotFitIsRefusedWithTheReason) {
  const PemPair pair = authority_.Issue("server");
  EXPECT_THAT(ErrorOf({pair.certificate, authority_.Issue("other").key}),
              AllOf(HasSubstr(Path("key")), HasSubstr(Path("cert")), HasSubstr("not the key")));
  EXPECT_THAT(ErrorOf({pair.certificate, testing::Encrypt(pair.key)}), HasSubstr("passphrase"));
  EXPECT_THAT(ErrorOf({pair.certificate, ""}), HasSubstr("no PEM private key"));
  EXPECT_THAT(ErrorOf({pair.key, pair.key}), HasSubstr("no PEM certificate"));
  EXPECT_THAT(ErrorOf({"nonsense", pair.key}), HasSubstr("no PEM certificate"));
  std::string damaged = pair.certificate;
  damaged.replace(100, 10, "##########");
  EXPECT_THAT(ErrorOf({damaged, pair.key}), HasSubstr("malformed"));
  EXPECT_THAT(ErrorOf({pair.certificate + damaged, pair.key}), HasSubstr("certificate 2"));
  EXPECT_THAT(ErrorOf(pair, "nonsense"), AllOf(HasSubstr(Path("ca")), HasSubstr("no PEM")));
  EXPECT_THAT(Message(ReadTlsFiles({Path("cert"), Path("gone"), ""}, absl::Now()).status()),
              AllOf(HasSubstr(Path("gone")), HasSubstr("No such file")));
}

TEST_F(TlsFilesTest, ExpiredAndFutureCertificatesAreRefused) {
  const absl::Time now = absl::Now();
  EXPECT_THAT(ErrorOf(authority_.Issue("old", now - absl::Hours(2), now - absl::Hours(1))),
              HasSubstr("expired"));
  EXPECT_THAT(ErrorOf(authority_.Issue("new", now + absl::Hours(1), now + absl::Hours(2))),
              HasSubstr("not valid before"));
}

TEST_F(TlsFilesTest, AReloadThatFailsChangesNothing) {
  const PemPair first = authority_.Issue("first");
  const PemPair second = authority_.Issue("second");
  auto files = TlsFiles::Open({Write("cert", first.certificate), Write("key", first.key), ""});
  ASSERT_TRUE(files.ok()) << files.status();
  Write("cert", second.certificate);  // And not yet the key.
  EXPECT_FALSE((*files)->Reload().ok());
  EXPECT_EQ((*files)->current()->subject, "CN=first");
  Write("key", second.key);
  EXPECT_TRUE((*files)->Reload().ok());
  EXPECT_EQ((*files)->current()->subject, "CN=second");
}

class FileWatcherTest : public FilesTest {
 protected:
  void Changed() {
    MutexLock lock(&mutex_);
    ++changes_;
    changed_.SignalAll();
  }
  void Await(int changes) {
    MutexLock lock(&mutex_);
    while (changes_ < changes) changed_.Wait(&mutex_);
  }

  Mutex mutex_;
  CondVar changed_;
  int changes_ = 0;
};

TEST_F(FileWatcherTest, SeesWhatIsWrittenReplacedAndMade) {
  Write("file", "a");
  FileWatcher watcher(absl::Milliseconds(1));
  watcher.Watch({Path("file"), Path("other")}, [this] { Changed(); });
  watcher.Start();
  Write("file", "ab");
  Await(1);
  Write("next", "cd");
  std::filesystem::rename(Path("next"), Path("file"));
  Await(2);
  Write("other", "");
  Await(3);
}

TEST_F(FileWatcherTest, TouchIsAChange) {
  FileWatcher watcher(absl::Hours(1));
  watcher.Watch({Path("file")}, [this] { Changed(); });
  watcher.Start();
  watcher.Touch();
  Await(1);
}

}  // namespace
}  // namespace thresher
