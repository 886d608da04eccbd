# Run as a script: cmake -DOUTPUT=x.cc -DHEADER=x.h -DTABLE=kTexts "-DFILES=a;b" -P EmbedText.cmake
# Writes a table {name without extension (-DEXTENSIONS=ON: with it), content} of text files, for a header that declares
#   struct EmbeddedText { std::string_view name, content; };
#   extern const std::span<const EmbeddedText> TABLE;   in namespace thresher
set(rows "")
foreach(file IN LISTS FILES)
  if(EXTENSIONS)
    get_filename_component(name ${file} NAME)
  else()
    get_filename_component(name ${file} NAME_WE)
  endif()
  file(READ ${file} content)
  string(APPEND rows "    {\"${name}\", R\"EMBEDDED(${content})EMBEDDED\"},\n")
endforeach()
list(LENGTH FILES count)
file(WRITE ${OUTPUT}
"#include \"${HEADER}\"
#include <array>
namespace thresher {
namespace {
const std::array<EmbeddedText, ${count}> kTexts = {{
${rows}}};
}
const std::span<const EmbeddedText> ${TABLE} = kTexts;
}
")
